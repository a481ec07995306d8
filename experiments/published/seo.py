"""The gradient of Seo's script x_gru.py: a correct derivation with any of his errors planted.

    h = u h₋ + (1 − u) c,   c = tanh(x wx_c + r h₋ wrec_c),   cost ½ Σ (h₃ − y)²

The script trains the candidate's two weights wx_c and wrec_c. `gru_by_hand` reproduces its run to
the last digit. Error 2 is not listed here, because it is not in a formula: the script trains only
two of the six weights.
"""

import jax
import jax.numpy as jnp

from experiments.tutorials.seo_gru_script import XS, YS, correct_params, gru_cost, script_weights

# By error: what the script has, and what is correct.
ERRORS = {
    "1 r before its sigmoid": ("c = tanh(x wx_c + a_r h₋ wrec_c)", "r = σ(a_r)"),
    "3 the carry left out": ("δ₋ without u δ", "u δ"),
    "4 tanh′ of a_u": ("(1 − tanh²(a_u))", "(1 − c²)"),
    "5 the r of another step": ("r₁ in a₁", "r₂"),
    "6 wrec_c meets h₋": ("Σ a h₋", "Σ a r h₋"),
    "7 the way through u left out": ("δ₋ without δ (h₋ − c) u (1 − u) wrec_u", "δ (h₋ − c) u (1 − u) wrec_u"),
}


def gradient(errors: frozenset[str] = frozenset()) -> jax.Array:
    """Returns (∂/∂wx_c, ∂/∂wrec_c) at the initial weights, with the given errors planted."""
    w, xs, ys = script_weights(), jnp.array(XS), jnp.array(YS)
    wrong = lambda number: any(error[0] == number for error in errors)
    hs, steps = [jnp.zeros(len(xs))], []
    for x in xs.T:
        h = hs[-1]
        a_r, a_u = x * w["wx_r"] + h * w["wrec_r"], x * w["wx_u"] + h * w["wrec_u"]
        r, u = a_r if wrong("1") else jax.nn.sigmoid(a_r), jax.nn.sigmoid(a_u)
        c = jnp.tanh(x * w["wx_c"] + r * h * w["wrec_c"])
        steps.append(
            {"x": x, "h₋": h, "r": r, "u": u, "c": c, "a_u": a_u, "r′": jax.nn.sigmoid(a_r) * (1 - jax.nn.sigmoid(a_r))}
        )
        hs.append(u * h + (1 - u) * c)

    delta, bars = hs[-1] - ys, jnp.zeros(2)
    for t in (2, 1, 0):
        s = steps[t]
        slope = 1 - jnp.tanh(s["a_u"]) ** 2 if wrong("4") and t < 2 else 1 - s["c"] ** 2
        a = delta * (1 - s["u"]) * slope
        bars += jnp.array([(a * s["x"]).sum(), (a * s["h₋"] * (1 if wrong("6") else s["r"])).sum()])
        r = steps[0]["r"] if wrong("5") and t == 1 else s["r"]
        back = a * w["wrec_c"] * (r + s["h₋"] * s["r′"] * w["wrec_r"])
        back += 0 if wrong("3") else delta * s["u"]
        back += 0 if wrong("7") else delta * (s["h₋"] - s["c"]) * s["u"] * (1 - s["u"]) * w["wrec_u"]
        delta = back
    return bars


def true_gradient() -> jax.Array:
    """Returns (∂/∂wx_c, ∂/∂wrec_c) by `jax.grad` of this library's GRU."""
    data = (jnp.array(XS[..., None]), jnp.array(YS[:, None]))
    bars = jax.grad(lambda params: gru_cost(params, data))(correct_params())
    return jnp.array([bars.W_h[0, 0], bars.U_h[0, 0]])
