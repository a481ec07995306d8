"""The equations δ1 … δ24 and the six weight updates of Fichou, "GRU units" (2019), as printed.

The source is the vignette GRU_units of the R package `rnn`. `·` is the elementwise and `*` the
matrix product. δ1 comes from the layer above and δ2 from the next step. tanh′ and σ′ are functions
of the activations, 1 − g² and z (1 − z), as in the package.

The figure of the vignette shows which cotangent each δ is: δ12, δ14 and δ20 lie on the arrows to x,
δ13, δ15 and δ21 on those to h₋, and δ24 is their sum towards x. Each equation is judged as that
cotangent.

The letters W and U are ambiguous. The forward equations multiply h₋ by W and x by U. With that
reading, δ12 = δ10 * W_gᵀ cannot be a cotangent of x. With the other reading, where W multiplies the
input, δ12 … δ22 are right, but the forward pass is not the printed one. Both readings are judged.
"""

from typing import Any

from experiments.published.audit import Equation, Values

SOURCE = "Fichou, GRU units (2019)"
READINGS = {"W on h₋, U on x, as in the forward pass": ("W", "U"), "W on x, U on h₋, in the backward lines": ("U", "W")}


def tanh_prime(g: Any) -> Any:
    """Returns tanh′ as a function of the activation."""
    return 1 - g**2


def sigmoid_prime(s: Any) -> Any:
    """Returns σ′ as a function of the activation."""
    return s * (1 - s)


def equations(reading: tuple[str, str] = ("W", "U")) -> tuple[Equation, ...]:
    """Returns the chain under a reading of W and U.

    `reading` has the letters of the forward equations that W and U of the backward ones stand for.
    """

    def weight(letter: str, gate: str, v: Values) -> Any:
        return v[f"{reading['WU'.index(letter)]}_{gate}"].T

    def through(delta: str, letter: str, gate: str) -> Any:
        return lambda d, v: d[delta] @ weight(letter, gate, v)

    def through_forward_weight(delta: str, letter: str, gate: str) -> Any:
        return lambda d, v: d[delta] @ v[f"{letter}_{gate}"].T

    swapped = reading == ("W", "U")  # W and U of each pair of equations are then exchanged
    correction = lambda delta, letter, gate: (
        (f"{delta} * {letter}_{gate}ᵀ", through_forward_weight(delta, letter, gate)) if swapped else (None, None)
    )
    return (
        Equation("δ3", "δ1 + δ2", lambda d, v: d["δ1"] + d["δ2"], ("h",)),
        Equation("δ4", "(1 − z) · δ3", lambda d, v: (1 - v["z"]) * d["δ3"], ("h₋ by the carry",)),
        Equation("δ5", "δ3 · h₋", lambda d, v: d["δ3"] * v["h₋"], ("1 − z",)),
        Equation("δ6", "1 − δ5", lambda d, v: 1 - d["δ5"], ("z by 1 − z",), "−δ5", lambda d, v: -d["δ5"]),
        Equation("δ7", "δ3 · g", lambda d, v: d["δ3"] * v["g"], ("z by z ⊙ g",)),
        Equation("δ8", "δ3 · z", lambda d, v: d["δ3"] * v["z"], ("g",)),
        Equation("δ9", "δ7 + δ8", lambda d, v: d["δ7"] + d["δ8"], ("z",), "δ7 + δ6", lambda d, v: d["δ7"] + d["δ6"]),
        Equation("δ10", "δ8 · tanh′(g)", lambda d, v: d["δ8"] * tanh_prime(v["g"]), ("a_g",)),
        Equation("δ11", "δ9 · σ′(z)", lambda d, v: d["δ9"] * sigmoid_prime(v["z"]), ("a_z",)),
        Equation("δ12", "δ10 * W_gᵀ", through("δ10", "W", "g"), ("x by g",), *correction("δ10", "U", "g")),
        Equation("δ13", "δ10 * U_gᵀ", through("δ10", "U", "g"), ("s",), *correction("δ10", "W", "g")),
        Equation("δ14", "δ11 * W_zᵀ", through("δ11", "W", "z"), ("x by z",), *correction("δ11", "U", "z")),
        Equation("δ15", "δ11 * U_zᵀ", through("δ11", "U", "z"), ("h₋ by z",), *correction("δ11", "W", "z")),
        Equation("δ16", "δ13 · h₋", lambda d, v: d["δ13"] * v["h₋"], ("r",)),
        Equation("δ17", "δ13 · r", lambda d, v: d["δ13"] * v["r"], ("h₋ by s",)),
        Equation(
            "δ18", "δ17 · σ′(r)", lambda d, v: d["δ17"] * sigmoid_prime(v["r"]), ("a_r",),
            "δ16 · σ′(r)", lambda d, v: d["δ16"] * sigmoid_prime(v["r"]),
        ),
        Equation("δ19", "δ17 + δ4", lambda d, v: d["δ17"] + d["δ4"], ("h₋ by s", "h₋ by the carry")),
        Equation("δ20", "δ18 * W_rᵀ", through("δ18", "W", "r"), ("x by r",), *correction("δ18", "U", "r")),
        Equation("δ21", "δ18 * U_rᵀ", through("δ18", "U", "r"), ("h₋ by r",), *correction("δ18", "W", "r")),
        Equation("δ22", "δ21 + δ15", lambda d, v: d["δ21"] + d["δ15"], ("h₋ by r", "h₋ by z")),
        Equation("δ23", "δ19 + δ22", lambda d, v: d["δ19"] + d["δ22"], ("h₋",)),
        Equation("δ24", "δ12 + δ14 + δ20", lambda d, v: d["δ12"] + d["δ14"] + d["δ20"], ("x",)),
        *weight_updates(),
    )  # fmt: skip


def weight_updates() -> tuple[Equation, ...]:
    """Returns the six weight updates.

    "δW_f" and "δW_i" on their right sides, left over from an LSTM, are read as running sums.
    """
    state, reset, x = (lambda v: v["h₋"]), (lambda v: v["h₋"] * v["r"]), (lambda v: v["x"])

    def update(name: str, printed: str, left: Any, delta: str, right: str | None = None) -> Equation:
        corrected = None if right is None else (lambda d, v: left(v).T @ d[right.split(" * ")[1]])
        return Equation(f"δ{name}", printed, lambda d, v: left(v).T @ d[delta], (name,), right, corrected)

    return (
        update("W_r", "δW_f + h₋ᵀ * δ10", state, "δ10", "h₋ᵀ * δ18"),
        update("U_r", "δU_f + xᵀ * δ10", x, "δ10", "xᵀ * δ18"),
        update("W_z", "δW_i + h₋ᵀ * δ11", state, "δ11"),
        update("U_z", "δU_i + xᵀ * δ11", x, "δ11"),
        update("W_g", "δW_g + (h₋ᵀ · r) * δ18", reset, "δ18", "(h₋ · r)ᵀ * δ10"),
        update("U_g", "δU_g + xᵀ * δ18", x, "δ18", "xᵀ * δ10"),
    )
