"""Cells put together: layers on each other, both directions, dropout, zoneout. `unroll` takes each
of them like a cell.

`stack` and `bidirectional` run their parts one after the other, each by its own recursion;
`variational_dropout` and `zoneout` make a new `Cell` of a cell. What draws noise needs `unroll(…,
key=…)`; its `.deterministic()` is the same without, for evaluation.
"""

from gru_jax.layers.bidirectional import BidirectionalParams as BidirectionalParams
