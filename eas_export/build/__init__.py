"""BUILD: a checkpoint and options become the files of a bundle."""
