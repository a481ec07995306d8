"""Splits a gradient into terms (loss step, use step), and measures how a recurrence scales it.

    ∂L/∂θ = Σ_t Σ_{k≤t} ∂L_t/∂h_t · J_tᵀ J_{t-1}ᵀ … J_{k+1}ᵀ · ∂⁺h_k/∂θ

Here L_t = loss(t, y_t) is the loss of step t, L = Σ_t L_t is the total loss, and θ are the
parameters. J_t = ∂h_t/∂h_{t-1} is the Jacobian of step t. It acts on row vectors: a tangent ḣ₋ of
the state before the step becomes ḣ = ḣ₋ J, and a cotangent δ of the state after the step becomes
δ₋ = δ Jᵀ. ∂⁺h_k/∂θ is the derivative of step k alone, with h_{k-1} held constant.

The term (t, k) is the derivative of the loss of step t with respect to the parameters as step k
uses them. Back-propagation returns the sum of all terms. The functions here return each term.

Sources: the double sum is eqs. 3-5 of Pascanu et al. 2013 (arXiv 1211.5063). The Lyapunov exponents
by repeated QR decomposition follow Engelken et al. 2023 (arXiv 2006.02427).
"""

from gru_jax.flow.norms import norm as norm
from gru_jax.flow.stability import jacobian_norms as jacobian_norms
from gru_jax.flow.stability import jacobians as jacobians
from gru_jax.flow.stability import lyapunov_exponents as lyapunov_exponents
from gru_jax.flow.terms import contribution_norms as contribution_norms
from gru_jax.flow.terms import contributions as contributions
from gru_jax.flow.terms import state_sensitivity as state_sensitivity
