"""Wrong backward passes for testing gradient checkers.

`lines` contains wrong lines of a cell's derivation, and `passes` wrong gradients of a whole
function.
"""
