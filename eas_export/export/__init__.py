"""ONNX: record each graph from its module and GraphSpec, without weights; lower it by named passes; point it at the weight store."""
