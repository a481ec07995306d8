"""Lengths, masks and resets that the tests share, separately and combined."""

from typing import Any

import jax
import numpy as np
import pytest

from tests.problems import B, T, normal_like

LENGTHS = np.array([T, 4, 1])
MASK = np.random.default_rng(1).random((T, B)) < 0.7
RESETS = np.random.default_rng(2).random((T, B)) < 0.3
ALL_THREE = {"lengths": LENGTHS, "mask": MASK, "resets": RESETS}

# Options of `unroll`.
CONDITIONS = {
    "lengths": {"lengths": LENGTHS},
    "mask": {"mask": MASK},
    "resets": {"resets": RESETS},
    "lengths and mask": {"lengths": LENGTHS, "mask": MASK},
    "lengths and resets": {"lengths": LENGTHS, "resets": RESETS},
    "all three": ALL_THREE,
    "length 0": {"lengths": np.array([0, 3, 0]), "resets": RESETS},
    "all padding": {"lengths": np.zeros(B, int), "mask": MASK, "resets": RESETS},
    "resets everywhere": {"resets": np.ones((T, B), bool)},
    "no valid step": {"mask": np.zeros((T, B), bool), "resets": RESETS},
}
every_condition = pytest.mark.parametrize("conditions", CONDITIONS.values(), ids=CONDITIONS.keys())

# Conditions without effect: every step is valid, and none is reset.
NEUTRAL = {"lengths": np.full(B, T), "mask": np.ones((T, B), bool), "resets": np.zeros((T, B), bool)}


def batch_major(conditions: dict[str, Any]) -> dict[str, Any]:
    """Turns time-major masks and resets with one batch axis into batch-major ones."""
    return {name: value if name == "lengths" else value.T for name, value in conditions.items()}


def random_reset_state(cell: Any, params: Any, seed: int = 0) -> Any:
    """Draws a state to reset to, without batch axes."""
    return normal_like(50 + seed, jax.eval_shape(cell.initial_state, params))
