"""Back-propagation through time, written once for every cell.

Read in this order: `cell` (what a cell is: the equations once, and three pairs), `recursion` (the
scan over time and its transpose, the one custom VJP), `blocks` (how time is cut, and what is kept),
`when` (what lengths, masks and resets do to it), `adjoint` (a cell's own backward pass, or one made
for it), `both` (forward mode from the same derivation), `linalg` (products, and sums over time and
batch), `checks` (what bad input is told), `unroll` (the public function) and `run` (what it calls
for each layer); `step` and `truncated` stand beside it.
"""
