"""TensorRT and TensorRT-RTX: engines built from graphs, in a process of their own, and run."""
