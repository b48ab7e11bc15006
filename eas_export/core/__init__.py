"""WORDS of every room: configs, plans, options, errors. No torch, no ONNX, no files."""
