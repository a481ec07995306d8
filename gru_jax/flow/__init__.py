"""Splits a gradient into terms (loss step, use step), and measures how a recurrence scales it.

    ∂J/∂θ = Σ_t Σ_{k≤t} ∂J_t/∂h_t · J_tᵀ J_{t-1}ᵀ … J_{k+1}ᵀ · ∂⁺h_k/∂θ

J = Σ_t loss(t, y_t) is the loss, and J_j = ∂h_j/∂h_{j-1} the Jacobian of a step, which acts on row
vectors: ḣ = ḣ₋ J, δ₋ = δ Jᵀ. The term (t, k) is the derivative of the loss at step t with respect
to the parameters as they are used at step k. Back-propagation returns the sum of all terms; the
functions here return each one.

Sources: the double sum is eqs. 3-5 of Pascanu et al. 2013 (arXiv 1211.5063); the Lyapunov exponents
by repeated QR follow Engelken et al. 2023 (arXiv 2006.02427).
"""

from gru_jax.flow.norms import norm as norm
from gru_jax.flow.stability import jacobian_norms as jacobian_norms
from gru_jax.flow.stability import jacobians as jacobians
from gru_jax.flow.stability import lyapunov_exponents as lyapunov_exponents
from gru_jax.flow.terms import contribution_norms as contribution_norms
from gru_jax.flow.terms import contributions as contributions
from gru_jax.flow.terms import state_sensitivity as state_sensitivity
