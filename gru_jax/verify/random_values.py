"""The random numbers of a verification: cotangents, directions and indices."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from gru_jax.verify.function import Arrays


class RandomValues:
    """Draws the random numbers of one verification, in order, from one seed."""

    def __init__(self, seed: Sequence[int]) -> None:
        self._rng = np.random.default_rng(list(seed))

    def normal(self, shapes: Sequence[tuple[int, ...]]) -> Arrays:
        """Draws standard normal numbers, rounded to bfloat16 so that every dtype is exact.

        Returns them in float64.
        """
        return tuple(
            self._rng.standard_normal(shape).astype(np.float32).astype(jnp.bfloat16).astype(np.float64) for shape in shapes
        )

    def index(self, size: int) -> int:
        """Draws an index below `size`."""
        return int(self._rng.integers(size))
