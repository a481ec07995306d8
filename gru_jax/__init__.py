"""Recurrent networks in JAX with a hand-derived backward pass, tested against `jax.grad`."""

from gru_jax import cells as cells
from gru_jax import convert as convert
from gru_jax import flow as flow
from gru_jax import heads as heads
from gru_jax import layers as layers
from gru_jax import ops as ops
from gru_jax import plot as plot
from gru_jax import train as train
from gru_jax import verify as verify
from gru_jax.cell import Adjoint as Adjoint
from gru_jax.cell import Cell as Cell
from gru_jax.cell import NoiseKeys as NoiseKeys
from gru_jax.cell import Tangent as Tangent
from gru_jax.cells import initializers as initializers
from gru_jax.cells.elman import elman as elman
from gru_jax.cells.gru import gru as gru
from gru_jax.cells.linear import linear_rnn as linear_rnn
from gru_jax.cells.make_lstm import lstm as lstm
from gru_jax.derivative import Autodiff as Autodiff
from gru_jax.derivative import CustomJVP as CustomJVP
from gru_jax.derivative import CustomVJP as CustomVJP
from gru_jax.layers.bidirectional import bidirectional as bidirectional
from gru_jax.layers.dropout import variational_dropout as variational_dropout
from gru_jax.layers.feedforward import feedforward as feedforward
from gru_jax.layers.stack import stack as stack
from gru_jax.layers.zoneout import zoneout as zoneout
from gru_jax.step import step as step
from gru_jax.truncated import unroll_truncated as unroll_truncated
from gru_jax.unroll import unroll as unroll
from gru_jax.verify import assert_vjp as assert_vjp
from gru_jax.verify import verify_vjp as verify_vjp

__version__ = "0.2.0"
