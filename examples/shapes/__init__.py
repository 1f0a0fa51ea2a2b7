"""A small MemVP-LLaMA that answers questions about drawn shapes: its data, its training and its files."""
