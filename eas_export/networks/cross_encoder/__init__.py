"""The cross-encoder: METER's network, its parameters and its graph."""
