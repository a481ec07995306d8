"""Finds the cell and the direction that the attributes of an ONNX operator describe."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from gru_jax.cells.activations import NAMES, Activation
from gru_jax.cells.elman import elman
from gru_jax.cells.gru import gru
from gru_jax.cells.make_lstm import lstm
from gru_jax.convert.onnx import ACTIVATIONS
from gru_jax.layers.bidirectional import bidirectional

_DEFAULT_ACTIVATIONS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}
_KINDS = {
    "direction": "a text",
    "hidden_size": "an integer",
    "linear_before_reset": "0 or 1",
    "layout": "0 or 1",
    "input_forget": "0 or 1",
    "activations": "a list of texts",
    "activation_alpha": "a list of numbers",
    "activation_beta": "a list of numbers",
    "clip": "a number",
}
_IS_OF_KIND: dict[str, Callable[[Any], bool]] = {
    "a text": lambda value: isinstance(value, bytes),
    "an integer": lambda value: isinstance(value, int),
    "0 or 1": lambda value: value in (0, 1) and isinstance(value, int),
    "a number": lambda value: isinstance(value, float),
    "a list of texts": lambda value: isinstance(value, list) and all(isinstance(item, bytes) for item in value),
    "a list of numbers": lambda value: isinstance(value, list) and all(isinstance(item, float) for item in value),
}


def check_attributes(attributes: Mapping[str, Any], label: str) -> None:
    """Checks that an operator has known attributes of their types.

    Raises:
        ValueError: If it has not.
    """
    for name, value in attributes.items():
        if name not in _KINDS or (name == "input_forget" and value == 1):
            raise ValueError(
                f"{label}: got {name}={value!s:.80}, expected an operator without it: no cell of this package implements it."
            )
        kind = _KINDS[name]
        # an empty list has no type
        if not _IS_OF_KIND[kind](value) and not (value == [] and kind.startswith("a list")):
            raise ValueError(
                f"{label}: got {name}={value!s:.80} ({type(value).__name__}), expected {kind}, as ONNX defines it."
            )


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
        attributes: The attributes of the operator by name, which passed `check_attributes`.
        direction: From `direction_from_attributes`.
        peephole: Whether the operator has peephole weights.
        label: What error messages call the operator.

    Raises:
        ValueError: If no cell of this package implements the attributes.
    """
    number = 2 if direction == "bidirectional" else 1
    activations = _activations(kind, attributes, number, label)
    if "clip" in attributes:
        _check_clip(attributes["clip"], {one for own in activations for one in own}, label)
    cells = [_cell(kind, own, bool(attributes.get("linear_before_reset", 0)), peephole, label) for own in activations]
    return cells[0] if number == 1 else bidirectional(*cells)


def _cell(kind: str, activations: list[Activation], reset_after: bool, peephole: bool, label: str) -> Any:
    """Returns the cell of one direction."""
    if kind == "RNN":
        return elman(*activations)
    named: Any = {"gate_activation": activations[0], "activation": activations[1]}
    if kind == "GRU":
        return gru(reset_after=reset_after, **named)
    if activations[1] != activations[2]:
        raise ValueError(
            f"{label}: got the activations {activations[1]} of the candidate and {activations[2]} of the memory, expected the "
            "same activation twice, as gj.lstm has. Write your own gj.Cell, and read the weights with "
            "gj.convert.from_onnx(gj.lstm(), …)."
        )
    return lstm(peephole=peephole, **named)


def _check_clip(clip: float, activations: set[Activation], label: str) -> None:
    """Raises unless every activation is at its limits at ±clip, to a few roundings of float32."""
    for activation in activations:
        far = 2 * abs(clip) + 1000
        at_clip, at_limit = (np.asarray(activation(jnp.asarray([-a, a], jnp.float32))) for a in (clip, far))
        if clip <= 0 or not np.allclose(at_clip, at_limit, rtol=4 * np.finfo(np.float32).eps, atol=0):
            raise ValueError(
                f"{label}: got clip={clip:g}, expected an operator without it: no cell of this package clips pre-activations, and "
                f"{activation!r} differs beyond ±{clip:g}. Export the model without clip, or write your own gj.Cell that clips."
            )


def _activations(kind: str, attributes: Mapping[str, Any], directions: int, label: str) -> list[list[Activation]]:
    """Returns the activations of each direction.

    Raises:
        ValueError: If their number is wrong, one is unknown, or there are more α or β than they take.
    """
    default = _DEFAULT_ACTIVATIONS[kind]
    given = [_as_str(name) for name in attributes.get("activations", [])] or default * directions
    if len(given) != len(default) * directions:
        raise ValueError(f"{label}: got the activations {given}, expected {len(default)} for each of {directions} directions.")
    # α and β are listed for those activations alone that take them, as onnxruntime reads them
    parameters = [list(attributes.get(name, [])) for name in ("activation_alpha", "activation_beta")]
    known = {name.lower(): entry for name, entry in ACTIVATIONS.items()}
    found = []
    for name in given:
        if name.lower() not in known:
            raise ValueError(f"{label}: got the activation {name}, expected one of {', '.join(ACTIVATIONS)}.")
        ours, defaults = known[name.lower()]
        taken = [values.pop(0) if values else value for values, value in zip(parameters, defaults, strict=False)]
        found.append(_activation(ours, taken, label))
    if any(parameters):
        raise ValueError(
            f"{label}: got activation_alpha={attributes.get('activation_alpha', [])} and "
            f"activation_beta={attributes.get('activation_beta', [])} for the activations {given}, expected a number only for "
            "those that take one."
        )
    return [found[i : i + len(default)] for i in range(0, len(found), len(default))]


def _activation(name: str, parameters: list[float], label: str) -> Activation:
    """Returns an activation with parameters that were read as float32."""
    if name == "identity":
        if parameters != [1.0, 0.0]:
            raise ValueError(
                f"{label}: got the activation Affine with alpha and beta {parameters}, expected 1 and 0, the identity."
            )
        return Activation(name)
    for known in NAMES:  # first, because the default 1/6 has no short decimal form, as those below have
        activation = Activation(known)
        if activation.name == name and np.array_equal(_as_float32(activation.parameters), _as_float32(parameters)):
            return activation
    try:
        return Activation(name, *(float(str(value)) for value in _as_float32(parameters)))
    except ValueError as error:
        raise ValueError(f"{label}: {name}: {error}") from error


def _as_float32(values: Any) -> Any:
    return np.asarray(values, np.float32)


def _as_str(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
