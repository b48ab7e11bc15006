"""ON DISK: the bundle, the only thing between the stages."""
