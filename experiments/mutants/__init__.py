"""Wrong backward passes, with which to test the checkers of gradients.

`lines` has wrong lines of a cell's derivation, and `passes` wrong gradients of a whole function.
"""
