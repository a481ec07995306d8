"""Recurrent networks in JAX whose backward pass is derived by hand on the page, and proven equal to `jax.grad`."""

from gru_jax import cells as cells
from gru_jax import heads as heads
from gru_jax import train as train
from gru_jax.bptt.cell import Cell as Cell
from gru_jax.bptt.unroll import unroll as unroll
from gru_jax.cells import initializers as initializers
from gru_jax.cells.elman import elman as elman
from gru_jax.cells.gru import gru as gru
from gru_jax.cells.linear import linear_rnn as linear_rnn
from gru_jax.cells.lstm import lstm as lstm

__version__ = "0.1.0"
