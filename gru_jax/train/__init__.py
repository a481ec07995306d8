"""A training loop that survives: jit-compiled, optax inside, many optimiser steps per dispatch. It knows no cell.

`loop` holds `fit` and `search`, their arguments; `training` is what happens between dispatches, `program` the compiled steps.
`sources`, `batches` and `sequences` say which examples a step sees; `checkpoint` and `folder` keep a run on the disk, `history` its
record; `signals`, `stopping` and `nonfinite` are its ends; `parallel` spreads it over devices and processes; `progress` is the bar.
"""

from gru_jax.train.folder import load_params as load_params
from gru_jax.train.loop import fit as fit
from gru_jax.train.loop import search as search
from gru_jax.train.parallel import data_mesh as data_mesh
from gru_jax.train.results import Fit as Fit
from gru_jax.train.results import Moment as Moment
from gru_jax.train.sequences import Bucketed as Bucketed
from gru_jax.train.sequences import Padded as Padded
from gru_jax.train.sequences import Window as Window
from gru_jax.train.sequences import Windows as Windows
from gru_jax.train.sequences import bucketed as bucketed
from gru_jax.train.sequences import windows as windows
from gru_jax.train.stopping import EarlyStopping as EarlyStopping
