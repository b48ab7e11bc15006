"""ONNX: each graph as a module with a GraphSpec, recorded without weights, lowered by named passes, pointed at the one store."""
