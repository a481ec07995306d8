"""Layers: stacks, both directions, layers without state, dropout and zoneout. `unroll` runs each like a cell.

`stack` and `bidirectional` run their parts one after the other, each by its own recursion.
`variational_dropout` and `zoneout` make a new `Cell` from a cell. A layer that draws noise needs
`unroll(…, key=…)`. Its `.deterministic()` is the same layer without noise, for evaluation.
"""

from gru_jax.layers.bidirectional import Bidirectional as Bidirectional
from gru_jax.layers.bidirectional import BidirectionalParams as BidirectionalParams
from gru_jax.layers.feedforward import FeedForward as FeedForward
from gru_jax.layers.stack import Stack as Stack
