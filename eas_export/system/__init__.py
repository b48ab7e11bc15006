"""MACHINE: files, hashes, memory and disk."""
