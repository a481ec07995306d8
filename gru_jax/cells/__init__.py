"""The cells: each file holds one cell's equations, its parameters, and its adjoint beside the
derivation.

`linear` and `elman` first: they are the shortest. `gru` is the flagship; `gru_reset_after` and
`lstm` follow its shape. `initializers` holds what fills the parameters.
"""

from gru_jax.cells.elman import ElmanParams as ElmanParams
from gru_jax.cells.gru import GRUParams as GRUParams
from gru_jax.cells.gru_reset_after import GRUResetAfterParams as GRUResetAfterParams
from gru_jax.cells.linear import LinearParams as LinearParams
from gru_jax.cells.lstm import LSTMParams as LSTMParams
from gru_jax.cells.lstm import LSTMState as LSTMState
