"""BUILD: turn a checkpoint and options into the files of a bundle."""
