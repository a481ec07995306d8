"""Experiments, one file per question.

`python -m experiments` lists them; `python -m experiments.<name>` runs one.
"""
