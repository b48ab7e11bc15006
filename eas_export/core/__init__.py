"""WORDS that all folders share: configs, plans, options, errors. No torch, no ONNX, no files."""
