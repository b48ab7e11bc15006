"""ONNX: each graph as a module with a GraphSpec, traced without weights, cleaned by named passes, pointed at the one store."""
