"""Turns hidden states into a cost: a dense read-out, losses per time step, reductions over time.

    dense            ŷ_t = g₂(h_t V + b_y)
    a loss           L_t = L(ŷ_t, y_t), one number per step and sequence
    a reduction      J = Σ_t L_t,  J = (1/T) Σ_t L_t,  or J = L_T

A cost J is a reduced loss, for example `mean_over_steps(softmax_cross_entropy(logits, labels))`.
Losses and reductions are computed and returned in at least float32. Masked steps contribute nothing
to a cost or its gradients, even if they contain NaN.
"""

from gru_jax.heads.losses import half_squared_error as half_squared_error
from gru_jax.heads.losses import sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy
from gru_jax.heads.losses import softmax_cross_entropy as softmax_cross_entropy
from gru_jax.heads.losses import squared_error as squared_error
from gru_jax.heads.read_out import DenseParams as DenseParams
from gru_jax.heads.read_out import dense as dense
from gru_jax.heads.read_out import init_dense as init_dense
from gru_jax.heads.reductions import last_step as last_step
from gru_jax.heads.reductions import mean_over_steps as mean_over_steps
from gru_jax.heads.reductions import sum_over_steps as sum_over_steps
