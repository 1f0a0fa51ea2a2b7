"""CUDA kernels of the memory operators, free of TensorRT, and their C interface for Python."""
