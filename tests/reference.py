"""An independent forward pass in NumPy, one sequence and one step at a time.

It follows the papers rather than the code of the package.
"""

from typing import Any

import numpy as np


def _sigmoid(a):
    return 1 / (1 + np.exp(-a))


def _zero_where_none(params: Any) -> dict[str, Any]:
    return {field: 0.0 if leaf is None else np.asarray(leaf, np.float64) for field, leaf in params._asdict().items()}


def _linear(p, h, x):
    return x @ p["W"] + h @ p["U"] + p["b"]


def _gru(p, h, x):
    z = _sigmoid(x @ p["W_z"] + h @ p["U_z"] + p["b_z"])
    r = _sigmoid(x @ p["W_r"] + h @ p["U_r"] + p["b_r"])
    g = np.tanh(x @ p["W_h"] + (r * h) @ p["U_h"] + p["b_h"])
    return (1 - z) * h + z * g


def _gru_reset_after(p, h, x):
    z = _sigmoid(x @ p["W_z"] + h @ p["U_z"] + p["b_z"])
    r = _sigmoid(x @ p["W_r"] + h @ p["U_r"] + p["b_r"])
    g = np.tanh(x @ p["W_h"] + p["b_h"] + r * (h @ p["U_h"] + p["c_h"]))
    return (1 - z) * h + z * g


def _lstm(p, state, x):
    h, c = state
    i = _sigmoid(x @ p["W_i"] + h @ p["U_i"] + p["b_i"] + p["p_i"] * c)
    f = _sigmoid(x @ p["W_f"] + h @ p["U_f"] + p["b_f"] + p["p_f"] * c)
    c = f * c + i * np.tanh(x @ p["W_g"] + h @ p["U_g"] + p["b_g"])
    o = _sigmoid(x @ p["W_o"] + h @ p["U_o"] + p["b_o"] + p["p_o"] * c)
    return o * np.tanh(c), c


STEPS = {
    "linear_rnn": _linear,
    "elman_tanh": lambda p, h, x: np.tanh(_linear(p, h, x)),
    "elman_relu": lambda p, h, x: np.maximum(_linear(p, h, x), 0),
    "elman_sigmoid": lambda p, h, x: _sigmoid(_linear(p, h, x)),
    "elman_identity": _linear,
    "gru": _gru,
    "gru_reset_after": _gru_reset_after,
    "lstm": _lstm,
    "lstm_peephole": _lstm,
}


def unroll(
    name: str,
    params: Any,
    xs: Any,
    h0: Any,
    *,
    reverse: bool = False,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reset_state: Any = None,
) -> tuple[Any, np.ndarray, Any]:
    """Computes (last state, outputs, states) of the cell `name` for xs (T, B, D).

    It loops over sequences, and for each over its valid steps. A masked step keeps the state and
    outputs 0. `reset_state` has no batch axes, and defaults to zeros.
    """
    p, step, is_pair = _zero_where_none(params), STEPS[name], name.startswith("lstm")
    xs = np.asarray(xs, np.float64)
    parts = lambda state: tuple(np.asarray(part, np.float64) for part in (state if is_pair else (state,)))
    H = parts(h0)[0].shape[-1]
    after_reset = (np.zeros(H),) * (1 + is_pair) if reset_state is None else parts(reset_state)
    T, B = xs.shape[:2]
    outputs, states = np.zeros((T, B, H)), np.zeros((1 + is_pair, T, B, H))
    lasts = np.zeros((1 + is_pair, B, H))
    for b in range(B):
        state = tuple(part[b] for part in parts(h0))
        for t in reversed(range(T)) if reverse else range(T):
            padded = lengths is not None and t >= lengths[b]
            masked = mask is not None and not mask[t][b]
            if not padded and not masked:
                if resets is not None and resets[t][b]:
                    state = after_reset
                new = step(p, state if is_pair else state[0], xs[t, b])
                state = new if is_pair else (new,)
                outputs[t, b] = state[0]
            states[:, t, b] = state
        lasts[:, b] = state
    whole = lambda part: tuple(part) if is_pair else part[0]
    return whole(lasts), outputs, whole(states)
