"""One worker process serving one ONNX model, most urgent request first."""
