"""A small APT-ViLT that answers the questions of `examples.shapes`: its sizes, its training and its files."""
