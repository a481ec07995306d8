"""Every built-in cell and option as cases for `verify_vjp`: the only file of this package that knows a cell."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Case = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

T, B, D, H = 7, 3, 4, 5


def cells() -> dict[str, Any]:
    """The built-in cells by name."""
    import gru_jax as gj

    elman = {f"elman {name}": gj.elman(name) for name in ("tanh", "relu", "sigmoid", "identity")}
    gates = {
        "gru": gj.gru(),
        "gru reset_after": gj.gru(reset_after=True),
        "lstm": gj.lstm(),
        "lstm peephole": gj.lstm(peephole=True),
    }
    return {"linear_rnn": gj.linear_rnn(), **elman, **gates}


def cases() -> dict[str, Callable[[], Case]]:
    """Name → function that makes (function, arguments, options of `verify_vjp`).

    A cell by itself gets every check, its options and sizes the fast ones.
    """
    made: dict[str, Callable[[], Case]] = {}
    for name, cell in cells().items():
        made[name] = partial(_unrolled, cell, checks="all")
        for option, make in _OPTIONS.items():
            made[f"{name}, {option}"] = partial(make, cell)
    for name, cell in _wrapped().items():
        made[name] = partial(_unrolled, cell, checks="fast")
        made[f"{name}, lengths and resets"] = partial(_conditions, cell)
    made |= {f"{name}, key": partial(_noisy, cell) for name, cell in _noisy_cells().items()}
    return made


def _random(tree: Any, seed: int, scale: float = 0.6) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    draw = lambda key, leaf: scale * jax.random.normal(key, leaf.shape, leaf.dtype)
    return jax.tree.unflatten(structure, [draw(key, leaf) for key, leaf in zip(keys, leaves, strict=True)])


def _arguments(
    cell: Any, *, steps: int = T, batch: tuple[int, ...] = (B,), hidden: int = H, bias: bool = True
) -> tuple[Any, ...]:
    """(params, xs, h0), all random."""
    params = _random(cell.init(jax.random.key(0), D, hidden, bias=bias), 1)
    xs = jax.random.normal(jax.random.key(2), (steps, *batch, D))
    return params, xs, _random(cell.initial_state(params, batch), 3)


def _unrolled(cell: Any, *, checks: str = "fast", sizes: dict[str, Any] | None = None, **options: Any) -> Case:
    import gru_jax as gj

    def unroll(params, xs, h0):
        return gj.unroll(cell, params, xs, h0, **options)

    return unroll, _arguments(cell, **(sizes or {})), {"checks": checks}


def _conditions(cell: Any) -> Case:
    import gru_jax as gj

    params, xs, h0 = _arguments(cell)
    mask = jax.random.bernoulli(jax.random.key(4), 0.8, xs.shape[:-1])
    resets = jax.random.bernoulli(jax.random.key(5), 0.3, xs.shape[:-1])

    def unroll(params, xs, h0, reset_state, lengths, mask, resets):
        return gj.unroll(cell, params, xs, h0, lengths=lengths, mask=mask, resets=resets, reset_state=reset_state)

    return unroll, (params, xs, h0, _random(h0, 6), jnp.array([0, T, T - 3]), mask, resets), {"checks": "fast"}


def _batch_major(cell: Any) -> Case:
    run, (params, xs, h0), options = _unrolled(cell, time_major=False)
    return run, (params, jnp.moveaxis(xs, 0, 1), h0), options


def _one_step(cell: Any) -> Case:
    import gru_jax as gj

    params, xs, h0 = _arguments(cell)

    def step(params, h0, x, reset, reset_state):
        return gj.step(cell, params, h0, x, reset=reset, reset_state=reset_state)

    arguments = (params, h0, xs[0], jnp.array([True, False, False]), _random(h0, 6))
    return step, arguments, {"checks": ("fast", "numerical", "-guard")}  # differentiated by autodiff: there is no rule


def _windows(cell: Any) -> Case:
    import gru_jax as gj

    def truncated(params, xs, h0):
        return gj.unroll_truncated(cell, params, xs, h0, window=3)

    def plain(params, xs, h0):
        return gj.unroll_truncated(cell, params, xs, h0, window=3, derivative="autodiff")

    return truncated, _arguments(cell), {"checks": "fast", "reference": plain}


def _noisy(cell: Any) -> Case:
    import gru_jax as gj

    def unroll(params, xs, h0, key):
        return gj.unroll(cell, params, xs, h0, key=key)

    return unroll, (*_arguments(cell), jax.random.key(7)), {"checks": "fast"}


def _wrapped() -> dict[str, Any]:
    import gru_jax as gj

    return {
        "stack of gru, lstm": gj.stack([gj.gru(), gj.lstm()]),
        "bidirectional gru reset_after": gj.bidirectional(gj.gru(reset_after=True)),
        "zoneout of gru, deterministic": gj.zoneout(gj.gru(), 0.3).deterministic(),
    }


def _noisy_cells() -> dict[str, Any]:
    import gru_jax as gj

    return {
        "zoneout of lstm": gj.zoneout(gj.lstm(), 0.3),
        "variational_dropout of gru": gj.variational_dropout(gj.gru(), inputs=0.3, state=0.2),
    }


_OPTIONS: dict[str, Callable[..., Case]] = {
    "lengths, mask, resets": _conditions,
    "reverse": partial(_unrolled, reverse=True),
    "outputs states": partial(_unrolled, outputs="states"),
    "outputs last": partial(_unrolled, outputs="last"),
    "batch major": _batch_major,
    "no bias": partial(_unrolled, sizes={"bias": False}),
    "derivative both": partial(_unrolled, derivative="both"),
    "compute_dtype float32": partial(_unrolled, compute_dtype=jnp.float32),
    "no step": partial(_unrolled, sizes={"steps": 0}),
    "one step": partial(_unrolled, sizes={"steps": 1}),
    "no sequence": partial(_unrolled, sizes={"batch": (0,)}),
    "no batch axis": partial(_unrolled, sizes={"batch": ()}),
    "two batch axes": partial(_unrolled, sizes={"batch": (2, 3)}),
    "hidden size 1": partial(_unrolled, sizes={"hidden": 1}),
    "windows": _windows,
    "gj.step": _one_step,
}
