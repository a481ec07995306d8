"""A training loop: jit-compiled, optax inside, many optimiser steps per dispatch. It knows no cell.

`loop` holds `fit`; `batches` says which examples a step sees; `progress` is the bar.
"""

from gru_jax.train.loop import Fit as Fit
from gru_jax.train.loop import fit as fit
