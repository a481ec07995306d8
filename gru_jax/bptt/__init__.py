"""Back-propagation through time, written once for every cell.

Read in this order: `cell` (what a cell is: the equations once, and three pairs), `recursion` (the scan over time and its
transpose, the one custom VJP), `adjoint` (a cell's own backward pass, or one made for it), `both` (forward mode from the same
derivation), `linalg` (sums over time and batch), `checks` (what bad input is told), `unroll` (the public function).
"""
