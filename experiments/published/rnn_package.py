"""The equations of `backprop_gru` in the R package `rnn` (1.9.1), for one step.

The forward pass is that of the vignette, with biases (zero here) and a read-out ŷ = σ(h V). `e` is
the output delta (y − ŷ) σ′(ŷ), `V̄` the running sum of the update of V, and `δ_f` comes from the
next step. All deltas are minus the gradient, the direction of descent. σ′ and tanh′ are functions
of the activations.
"""

from typing import Any

from experiments.published.audit import Equation, Values
from experiments.published.fichou import sigmoid_prime, tanh_prime

SOURCE = "R package rnn 1.9.1, backprop_gru"


def equations() -> tuple[Equation, ...]:
    """Returns the equations in order. Their names are those of the code, shortened."""
    return (
        Equation(
            "up", "(e * V̄ᵀ) · σ′(h) + δ_f", lambda d, v: (d["e"] @ d["V̄"].T) * sigmoid_prime(v["h"]) + d["δ_f"], ("h",),
            "e * Vᵀ + δ_f", lambda d, v: d["e"] @ v["V"].T + d["δ_f"],
        ),
        Equation("hidden", "up + δ_f", lambda d, v: d["up"] + d["δ_f"], ("h",), "up", lambda d, v: d["up"]),
        Equation("h_post", "hidden · z", lambda d, v: d["hidden"] * v["z"], ("g",)),
        Equation("h_pre", "h_post · tanh′(g)", lambda d, v: d["h_post"] * tanh_prime(v["g"]), ("a_g",)),
        Equation("z_split", "hidden · g", lambda d, v: d["hidden"] * v["g"], ("z by z ⊙ g",)),
        Equation("z_1_minus", "hidden · h₋", lambda d, v: d["hidden"] * v["h₋"], ("1 − z",)),
        Equation("carry", "hidden · (1 − z)", lambda d, v: d["hidden"] * (1 - v["z"]), ("h₋ by the carry",)),
        Equation(
            "z_post", "1 − z_1_minus", lambda d, v: 1 - d["z_1_minus"], ("z",),
            "z_split − z_1_minus", lambda d, v: d["z_split"] - d["z_1_minus"],
        ),
        Equation("z_pre", "z_post · σ′(z)", lambda d, v: d["z_post"] * sigmoid_prime(v["z"]), ("a_z",)),
        Equation("z_to_h", "z_pre * W_zᵀ", lambda d, v: d["z_pre"] @ v["W_z"].T, ("h₋ by z",)),
        Equation("z_to_x", "z_pre * U_zᵀ", lambda d, v: d["z_pre"] @ v["U_z"].T, ("x by z",)),
        Equation(
            "ΔW_z", "h₋ᵀ * z_post", lambda d, v: v["h₋"].T @ d["z_post"], ("W_z",),
            "h₋ᵀ * z_pre", lambda d, v: v["h₋"].T @ d["z_pre"],
        ),
        Equation(
            "ΔU_z", "xᵀ * z_post", lambda d, v: v["x"].T @ d["z_post"], ("U_z",),
            "xᵀ * z_pre", lambda d, v: v["x"].T @ d["z_pre"],
        ),
        Equation("h_to_s", "h_pre * W_gᵀ", lambda d, v: d["h_pre"] @ v["W_g"].T, ("s",)),
        Equation("h_to_x", "h_pre * U_gᵀ", lambda d, v: d["h_pre"] @ v["U_g"].T, ("x by g",)),
        Equation(
            "ΔW_g", "(h₋ · r)ᵀ * h_post", lambda d, v: (v["h₋"] * v["r"]).T @ d["h_post"], ("W_g",),
            "(h₋ · r)ᵀ * h_pre", lambda d, v: (v["h₋"] * v["r"]).T @ d["h_pre"],
        ),
        Equation(
            "ΔU_g", "xᵀ * h_post", lambda d, v: v["x"].T @ d["h_post"], ("U_g",),
            "xᵀ * h_pre", lambda d, v: v["x"].T @ d["h_pre"],
        ),
        Equation("r_post", "h₋ · h_to_s", lambda d, v: v["h₋"] * d["h_to_s"], ("r",)),
        Equation("r_pre", "r_post · σ′(r)", lambda d, v: d["r_post"] * sigmoid_prime(v["r"]), ("a_r",)),
        Equation(
            "direct", "carry + r · h_to_s", lambda d, v: d["carry"] + v["r"] * d["h_to_s"], ("h₋ by the carry", "h₋ by s")
        ),
        Equation("r_to_h", "r_pre * W_rᵀ", lambda d, v: d["r_pre"] @ v["W_r"].T, ("h₋ by r",)),
        Equation(
            "r_to_x", "r_post * U_rᵀ", lambda d, v: d["r_post"] @ v["U_r"].T, ("x by r",),
            "r_pre * U_rᵀ", lambda d, v: d["r_pre"] @ v["U_r"].T,
        ),
        Equation(
            "ΔW_r", "h₋ᵀ * r_post", lambda d, v: v["h₋"].T @ d["r_post"], ("W_r",),
            "h₋ᵀ * r_pre", lambda d, v: v["h₋"].T @ d["r_pre"],
        ),
        Equation(
            "ΔU_r", "xᵀ * r_post", lambda d, v: v["x"].T @ d["r_post"], ("U_r",),
            "xᵀ * r_pre", lambda d, v: v["x"].T @ d["r_pre"],
        ),
        *(bias_update(gate, name) for gate, name in (("z", "z"), ("g", "h"), ("r", "r"))),
        Equation("future", "direct + r_to_h + z_to_h", lambda d, v: d["direct"] + d["r_to_h"] + d["z_to_h"], ("h₋",)),
        Equation("below", "r_to_x + z_to_x + h_to_x", lambda d, v: d["r_to_x"] + d["z_to_x"] + d["h_to_x"], ("x",)),
    )  # fmt: skip


def bias_update(gate: str, name: str) -> Equation:
    """Returns the update of a bias.

    The package averages the delta after the activation over the batch. Correct is the sum over the
    batch of the delta before the activation.
    """

    def printed(d: Values, v: Values) -> Any:
        return d[f"{name}_post"].mean(0)

    def corrected(d: Values, v: Values) -> Any:
        return d[f"{name}_pre"].sum(0)

    return Equation(f"Δb_{gate}", f"colMeans({name}_post)", printed, (f"b_{gate}",), f"colSums({name}_pre)", corrected)
