"""The cells. Each file holds one cell's equations, its parameters, and its adjoint beside the derivation.

Start with `linear` and `elman`, the shortest. `gru` is the flagship; `gru_reset_after` and `lstm`
follow its shape, and `lstm_projected` adds a product to it. `activations` holds the elementwise
functions, `initializers` the initializers that `jax.nn.initializers` lacks, and `letters` what the
first letter of a parameter's name determines.
"""

from gru_jax.cells.activations import Activation as Activation
from gru_jax.cells.elman import ElmanParams as ElmanParams
from gru_jax.cells.gru import GRUParams as GRUParams
from gru_jax.cells.gru_reset_after import GRUResetAfterParams as GRUResetAfterParams
from gru_jax.cells.linear import LinearParams as LinearParams
from gru_jax.cells.lstm import LSTMParams as LSTMParams
from gru_jax.cells.lstm import LSTMState as LSTMState
from gru_jax.cells.lstm_projected import LSTMProjectedParams as LSTMProjectedParams
