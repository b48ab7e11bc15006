"""SAME?, for cross-encoders: the ledger of one pass over pairs of texts and images."""
