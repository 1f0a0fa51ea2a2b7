"""Calibration: which ranges a model's activations take in use, and graphs that compute in INT8 or FP8 after them."""
