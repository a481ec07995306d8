"""Compiles programs for a GPU on a machine without one, and counts what they would launch."""
