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


def _gru(p, h, x, sigma=_sigmoid, phi=np.tanh):
    z = sigma(x @ p["W_z"] + h @ p["U_z"] + p["b_z"])
    r = sigma(x @ p["W_r"] + h @ p["U_r"] + p["b_r"])
    g = phi(x @ p["W_h"] + (r * h) @ p["U_h"] + p["b_h"])
    return (1 - z) * h + z * g


def _gru_reset_after(p, h, x, sigma=_sigmoid, phi=np.tanh):
    z = sigma(x @ p["W_z"] + h @ p["U_z"] + p["b_z"])
    r = sigma(x @ p["W_r"] + h @ p["U_r"] + p["b_r"])
    g = phi(x @ p["W_h"] + p["b_h"] + r * (h @ p["U_h"] + p["c_h"]))
    return (1 - z) * h + z * g


def _lstm(p, state, x, sigma=_sigmoid, phi=np.tanh):
    h, c = state
    i = sigma(x @ p["W_i"] + h @ p["U_i"] + p["b_i"] + p["p_i"] * c)
    f = sigma(x @ p["W_f"] + h @ p["U_f"] + p["b_f"] + p["p_f"] * c)
    c = f * c + i * phi(x @ p["W_g"] + h @ p["U_g"] + p["b_g"])
    o = sigma(x @ p["W_o"] + h @ p["U_o"] + p["b_o"] + p["p_o"] * c)
    return o * phi(c), c


# After the definitions of ONNX' and Keras' documentation.
ACTIVATIONS = {
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "relu": lambda a: np.maximum(a, 0),
    "identity": lambda a: a,
    "softsign": lambda a: a / (1 + np.abs(a)),
    "softplus": lambda a: np.log(1 + np.exp(a)),
    "elu": lambda a: np.where(a > 0, a, np.exp(a) - 1),
    "leaky_relu": lambda a: np.maximum(a, 0.01 * a),
    "hard_sigmoid": lambda a: np.clip(a + 3, 0, 6) / 6,
    "hard_sigmoid_onnx": lambda a: np.maximum(0, np.minimum(1, 0.2 * a + 0.5)),
    "scaled_tanh": lambda a: 1.7159 * np.tanh(2 / 3 * a),
}


def _elman(activation):
    return lambda p, h, x: ACTIVATIONS[activation](_linear(p, h, x))


def _with(step, gate_activation, activation):
    return lambda p, h, x: step(p, h, x, ACTIVATIONS[gate_activation], ACTIVATIONS[activation])


STEPS = {
    "linear_rnn": _linear,
    "gru": _gru,
    "gru_reset_after": _gru_reset_after,
    "lstm": _lstm,
    "lstm_peephole": _lstm,
    "gru_hard": _with(_gru, "hard_sigmoid", "leaky_relu"),
    "gru_reset_after_hard": _with(_gru_reset_after, "hard_sigmoid_onnx", "softsign"),
    "lstm_hard": _with(_lstm, "hard_sigmoid", "relu"),
    "lstm_peephole_scaled": _with(_lstm, "softsign", "scaled_tanh"),
} | {f"elman_{activation}": _elman(activation) for activation in ACTIVATIONS}


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
