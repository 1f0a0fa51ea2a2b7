"""memvp-export: official MemVP and APT checkpoints to ONNX and TensorRT, with proof of parity at every step."""
