"""Finds the cell and the direction that the attributes of an ONNX operator describe."""

from collections.abc import Mapping
from typing import Any

from gru_jax.cells.elman import elman
from gru_jax.cells.gru import gru
from gru_jax.cells.lstm import lstm
from gru_jax.layers.bidirectional import bidirectional

_DEFAULT_ACTIVATIONS = {"GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"], "RNN": ["tanh"]}
_KNOWN = {"direction", "hidden_size", "linear_before_reset", "activations", "activation_alpha", "activation_beta", "layout"}


def direction_from_attributes(attributes: Mapping[str, Any], label: str) -> str:
    """Returns "forward", "reverse" or "bidirectional".

    Raises:
        ValueError: If the attribute `direction` is anything else.
    """
    direction = _as_str(attributes.get("direction", "forward"))
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ValueError(f"{label}: got direction={direction!r}, expected forward, reverse or bidirectional.")
    return direction


def cell_from_attributes(kind: str, attributes: Mapping[str, Any], direction: str, *, peephole: bool, label: str) -> Any:
    """Returns the cell that an operator runs.

    Args:
        kind: "GRU", "LSTM" or "RNN".
        attributes: The attributes of the operator by name.
        direction: From `direction_from_attributes`.
        peephole: Whether the operator has peephole weights.
        label: What error messages call the operator.

    Raises:
        ValueError: If no cell of this package implements the attributes.
    """
    for name, value in attributes.items():
        if name not in _KNOWN and not (name == "input_forget" and not value):
            raise ValueError(
                f"{label}: got {name}={value}, expected an operator without it: no cell of this package implements it."
            )
    directions = 2 if direction == "bidirectional" else 1
    activations = _activations(kind, attributes, directions, label)
    cell: Any
    if kind == "RNN":
        cell = _elman_cell(activations[0], attributes, directions, label)
    elif activations != _DEFAULT_ACTIVATIONS[kind]:
        raise ValueError(
            f"{label}: got the activations {activations}, expected {_DEFAULT_ACTIVATIONS[kind]}, the only ones that the cells of "
            "this package have."
        )
    elif kind == "LSTM":
        cell = lstm(peephole=peephole)
    else:
        cell = gru(reset_after=bool(attributes.get("linear_before_reset", 0)))
    return bidirectional(cell) if directions == 2 else cell


def _activations(kind: str, attributes: Mapping[str, Any], directions: int, label: str) -> list[str]:
    """Returns the activations of one direction, in lower case.

    Raises:
        ValueError: If their number is wrong, or they differ between the directions.
    """
    default = _DEFAULT_ACTIVATIONS[kind]
    activations = [_as_str(a).lower() for a in attributes.get("activations", default * directions)]
    first = activations[: len(default)]
    if activations != first * directions or len(first) != len(default):
        raise ValueError(
            f"{label}: got the activations {activations}, expected {len(default)} for each direction, the same in every direction."
        )
    return first


def _elman_cell(activation: str, attributes: Mapping[str, Any], directions: int, label: str) -> Any:
    """Returns the Elman cell of an RNN operator. ONNX writes the identity as affine, 1·x + 0."""
    alpha, beta = (list(attributes.get(name, [])) for name in ("activation_alpha", "activation_beta"))
    if activation == "affine" and alpha == [1.0] * directions and beta == [0.0] * directions:
        return elman("identity")
    if activation not in ("tanh", "relu", "sigmoid"):
        raise ValueError(
            f"{label}: got the activation {activation} with alpha {alpha} and beta {beta}, expected tanh, relu, sigmoid, or affine "
            "with alpha 1 and beta 0."
        )
    return elman(activation)  # type: ignore[arg-type]


def _as_str(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
