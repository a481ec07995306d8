"""The keys of a call: one for noise that holds for a whole sequence, one for noise of each step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gru_jax._jax import keys


class NoiseKeys(NamedTuple):
    """The two `jax.random` keys that a cell's `sample_noise` draws from.

    `gj.unroll` and `gj.step` make them from their argument `key`.

    Example:
        >>> import jax, gru_jax as gj
        >>> def sample_noise(keys, params, xs):
        ...     keep = jax.random.bernoulli(keys.per_sequence, 0.9, xs.shape[1:])     # the same at every step
        ...     return params, keep * xs + 0.1 * jax.random.normal(keys.per_step, xs.shape)

    Attributes:
        per_step: For what is drawn anew at each step. `gj.step` is given another one at each step.
        of_sequence: The key that `per_sequence` returns, or None if the call has none.
    """

    per_step: Array
    of_sequence: Array | None = None

    @property
    def per_sequence(self) -> Array:
        """For what holds for a whole sequence, such as the mask of variational dropout.

        Raises:
            ValueError: If `gj.step` was given a single key, which is new at each step.
        """
        if self.of_sequence is None:
            raise ValueError(
                "key: got one key in step, expected a pair, because the cell draws noise that holds for a whole sequence. Pass "
                "key=(sequence_key, step_key): the first is the same at all steps of a sequence, the second new at each."
            )
        return self.of_sequence


def check_key(key: Any, layer: Any, *, in_step: bool = False) -> None:
    """Raises if noise is drawn without a key, or `key` is neither a key nor a pair of keys."""
    if key is None and layer.needs_key:
        when, function = ("at each step", "step") if in_step else ("for each call", "unroll")
        raise ValueError(
            f"key: got None, expected a jax.random key, because {layer.name} draws noise. Pass key=…, a new one {when}, or "
            f"evaluate without noise: gj.{function}(cell.deterministic(), …)."
        )
    if isinstance(key, tuple) and len(key) != 2:
        raise TypeError(f"key: got a tuple of {len(key)}, expected one key, or a pair (key of the sequence, key of the steps).")
    for each in key if isinstance(key, tuple) else (key,):
        if key is not None:
            keys.check_key("key", each)


def keys_of_sequence(key: Any) -> NoiseKeys | None:
    """The keys of a whole sequence. A single key is split into the two."""
    if key is None:
        return None
    of_sequence, per_step = key if isinstance(key, tuple) else jax.random.split(key)
    return NoiseKeys(per_step, of_sequence)


def keys_of_step(key: Any) -> NoiseKeys | None:
    """The keys of one step. A single key gives those of `keys_of_sequence` but for the sequence's:
    another key at the next step must not change what holds for the whole sequence.
    """
    keys = keys_of_sequence(key)
    return keys if keys is None or isinstance(key, tuple) else NoiseKeys(keys.per_step)


def split_keys(keys: NoiseKeys | None, parts: int) -> list[Any]:
    """Returns keys for each part, or None for each where there are none."""
    if keys is None:
        return [None] * parts
    per_step = jax.random.split(keys.per_step, parts)
    of_sequence = [None] * parts if keys.of_sequence is None else jax.random.split(keys.of_sequence, parts)
    return list(map(NoiseKeys, per_step, of_sequence))


def noise_of_step(cell: Any, keys: Any, params: Any, x: Any) -> tuple[Any, Any]:
    """Draws the noise of one step: that of a sequence of one."""
    xs = jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), x)
    params, xs = cell.sample_noise(keys, params, xs)
    return params, jax.tree.map(lambda leaf: leaf[0], xs)
