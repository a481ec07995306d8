"""The built-in cells and their options as cases for `verify_vjp`.

This is the only module of the package that imports cells.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

T, B, D, H = 7, 3, 4, 5


class Case(NamedTuple):
    """A call of `verify_vjp`.

    Attributes:
        fun: The function to verify.
        args: Its arguments.
        options: Options of `verify_vjp`.
    """

    fun: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]


class Sizes(NamedTuple):
    """The sizes of the arguments of a case. By default all differ, so that swapped axes show."""

    steps: int = T
    batch: tuple[int, ...] = (B,)
    hidden: int = H
    bias: bool = True


def cells() -> dict[str, Any]:
    """Returns the built-in cells by name.

    Example:
        >>> "gru reset_after" in cells()
        True
    """
    import gru_jax as gj

    elman = {f"elman {name}": gj.elman(name) for name in ("tanh", "relu", "sigmoid", "identity")}
    gated = {
        "gru": gj.gru(),
        "gru reset_after": gj.gru(reset_after=True),
        "lstm": gj.lstm(),
        "lstm peephole": gj.lstm(peephole=True),
    }
    return {"linear_rnn": gj.linear_rnn(), **elman, **gated}


def cases() -> dict[str, Callable[[], Case]]:
    """Returns the functions that make the cases, by name.

    A cell with default options and sizes gets every check. Other options and sizes get the fast
    checks.

    Example:
        >>> fun, args, options = cases()["gru, reverse"]()
        >>> options
        {'checks': 'fast'}
    """
    makers: dict[str, Callable[[], Case]] = {}
    for name, cell in cells().items():
        makers[name] = partial(_unroll, cell, checks="all")
        for option, make in _OPTIONS.items():
            makers[f"{name}, {option}"] = partial(make, cell)
    for name, cell in _wrapped_cells().items():
        makers[name] = partial(_unroll, cell, checks="fast")
        makers[f"{name}, lengths and resets"] = partial(_lengths_mask_resets, cell)
    return makers | {f"{name}, key": partial(_with_key, cell) for name, cell in _stochastic_cells().items()}


def _random_like(tree: Any, seed: int, scale: float = 0.6) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    draw = lambda key, leaf: scale * jax.random.normal(key, leaf.shape, leaf.dtype)
    return jax.tree.unflatten(structure, [draw(key, leaf) for key, leaf in zip(keys, leaves, strict=True)])


def _arguments(cell: Any, sizes: Sizes = Sizes()) -> tuple[Any, ...]:  # noqa: B008 - immutable
    """Returns random (params, xs, h0)."""
    params = _random_like(cell.init(jax.random.key(0), D, sizes.hidden, bias=sizes.bias), 1)
    xs = jax.random.normal(jax.random.key(2), (sizes.steps, *sizes.batch, D))
    return params, xs, _random_like(cell.initial_state(params, sizes.batch), 3)


def _unroll(cell: Any, *, checks: str = "fast", sizes: Sizes = Sizes(), **options: Any) -> Case:  # noqa: B008 - immutable
    import gru_jax as gj

    def unroll(params, xs, h0):
        return gj.unroll(cell, params, xs, h0, **options)

    return Case(unroll, _arguments(cell, sizes), {"checks": checks})


def _lengths_mask_resets(cell: Any) -> Case:
    import gru_jax as gj

    params, xs, h0 = _arguments(cell)
    lengths = jnp.array([0, T, T - 3])
    mask = jax.random.bernoulli(jax.random.key(4), 0.8, xs.shape[:-1])
    resets = jax.random.bernoulli(jax.random.key(5), 0.3, xs.shape[:-1])

    def unroll(params, xs, h0, reset_state, lengths, mask, resets):
        return gj.unroll(cell, params, xs, h0, lengths=lengths, mask=mask, resets=resets, reset_state=reset_state)

    return Case(unroll, (params, xs, h0, _random_like(h0, 6), lengths, mask, resets), {"checks": "fast"})


def _batch_major(cell: Any) -> Case:
    fun, (params, xs, h0), options = _unroll(cell, time_major=False)
    return Case(fun, (params, jnp.moveaxis(xs, 0, 1), h0), options)


def _custom_jvp(cell: Any) -> Case:
    import gru_jax as gj

    return _unroll(cell, derivative=gj.CustomJVP())


def _step(cell: Any) -> Case:
    import gru_jax as gj

    params, xs, h0 = _arguments(cell)

    def step(params, h0, x, reset, reset_state):
        return gj.step(cell, params, h0, x, reset=reset, reset_state=reset_state)

    args = (params, h0, xs[0], jnp.array([True, False, False]), _random_like(h0, 6))
    # Autodiff differentiates `gj.step`. It has no custom rule, so differences of values decide.
    return Case(step, args, {"checks": "fast"})


def _truncated(cell: Any) -> Case:
    import gru_jax as gj

    def truncated(params, xs, h0):
        return gj.unroll_truncated(cell, params, xs, h0, window=3)

    def plain(params, xs, h0):
        return gj.unroll_truncated(cell, params, xs, h0, window=3, derivative=gj.Autodiff())

    return Case(truncated, _arguments(cell), {"checks": "fast", "reference": plain})


def _with_key(cell: Any) -> Case:
    import gru_jax as gj

    def unroll(params, xs, h0, key):
        return gj.unroll(cell, params, xs, h0, key=key)

    return Case(unroll, (*_arguments(cell), jax.random.key(7)), {"checks": "fast"})


def _wrapped_cells() -> dict[str, Any]:
    import gru_jax as gj

    return {
        "stack of gru, lstm": gj.stack([gj.gru(), gj.lstm()]),
        "bidirectional gru reset_after": gj.bidirectional(gj.gru(reset_after=True)),
        "zoneout of gru, deterministic": gj.zoneout(gj.gru(), 0.3).deterministic(),
    }


def _stochastic_cells() -> dict[str, Any]:
    import gru_jax as gj

    return {
        "zoneout of lstm": gj.zoneout(gj.lstm(), 0.3),
        "variational_dropout of gru": gj.variational_dropout(gj.gru(), inputs=0.3, state=0.2),
    }


_OPTIONS: dict[str, Callable[..., Case]] = {
    "lengths, mask, resets": _lengths_mask_resets,
    "reverse": partial(_unroll, reverse=True),
    "outputs states": partial(_unroll, outputs="states"),
    "outputs last": partial(_unroll, outputs="last"),
    "batch major": _batch_major,
    "no bias": partial(_unroll, sizes=Sizes(bias=False)),
    "custom JVP": _custom_jvp,
    "compute_dtype float32": partial(_unroll, compute_dtype=jnp.float32),
    "no steps": partial(_unroll, sizes=Sizes(steps=0)),
    "one step": partial(_unroll, sizes=Sizes(steps=1)),
    "empty batch": partial(_unroll, sizes=Sizes(batch=(0,))),
    "no batch axis": partial(_unroll, sizes=Sizes(batch=())),
    "two batch axes": partial(_unroll, sizes=Sizes(batch=(2, 3))),
    "hidden size 1": partial(_unroll, sizes=Sizes(hidden=1)),
    "truncated": _truncated,
    "gj.step": _step,
}
