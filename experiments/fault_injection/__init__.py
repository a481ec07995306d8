"""Faults for `experiments.faults`: processes that are killed, damaged files and hostile files."""
