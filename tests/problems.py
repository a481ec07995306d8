"""Random problems for derivative tests, and the comparisons that these tests make.

All sizes differ, every number is random, and every output has a cotangent. The inputs of a
derivative test matter as much as its check: with constant weights, a zero state and cotangents of
ones, a third of wrong backward passes go unnoticed.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj

T, B, D, H = 7, 3, 4, 5
SEEDS = (0, 1, 2)

CELLS = {
    "linear_rnn": gj.linear_rnn(),
    "elman_tanh": gj.elman("tanh"),
    "elman_relu": gj.elman("relu"),
    "elman_sigmoid": gj.elman("sigmoid"),
    "elman_identity": gj.elman("identity"),
    "gru": gj.gru(),
    "gru_reset_after": gj.gru(reset_after=True),
    "lstm": gj.lstm(),
    "lstm_peephole": gj.lstm(peephole=True),
}
# The same cells with other activations: what differs is the value and the derivative of these.
ACTIVATED = {
    f"elman_{activation}": gj.elman(activation)
    for activation in (
        "softsign", "softplus", "elu", "leaky_relu", "hard_sigmoid", "hard_sigmoid_onnx", "scaled_tanh",
    )
} | {
    "gru_hard": gj.gru(gate_activation="hard_sigmoid", activation="leaky_relu"),
    "gru_reset_after_hard": gj.gru(reset_after=True, gate_activation="hard_sigmoid_onnx", activation="softsign"),
    "lstm_hard": gj.lstm(gate_activation="hard_sigmoid", activation="relu"),
    "lstm_peephole_scaled": gj.lstm(peephole=True, gate_activation="softsign", activation="scaled_tanh"),
}  # fmt: skip
PROJECTED = {
    "lstm_projected": gj.lstm(proj_size=2),
    "lstm_peephole_projected": gj.lstm(peephole=True, proj_size=3, gate_activation="hard_sigmoid", activation="softsign"),
}
GATED = ("gru", "gru_reset_after", "lstm", "lstm_peephole")

every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
# Cells whose derivatives have code of their own; the other activations and the plain LSTM share it.
DISTINCT = ("linear_rnn", "elman_tanh", "gru", "gru_reset_after", "lstm_peephole")
distinct_cells = pytest.mark.parametrize("cell", [pytest.param(CELLS[name], id=name) for name in DISTINCT])
# What the engine does, whatever the cell, is tested by default with a state that is a pair, and with
# the others in the slow tests.
pair_by_default = pytest.mark.parametrize(
    "cell",
    [pytest.param(CELLS[name], id=name, marks=() if name == "lstm_peephole" else pytest.mark.slow) for name in DISTINCT],
)


def without_derivation(cell: gj.Cell) -> gj.Cell:
    """Returns the cell with its value functions only, as a user would first write it."""
    return replace(cell, adjoint=None, tangent=None, name=f"{cell.name} without derivation")


class Problem(NamedTuple):
    """Arguments of `unroll`, and a cotangent for what it returns."""

    params: Any
    xs: jax.Array
    h0: Any
    cotangents: Any


def normal(seed: int | tuple[int, ...], *shape: int, dtype: Any = None) -> jax.Array:
    """Draws standard normal numbers, in float64 unless it is off.

    NumPy draws them: every shape that `jax.random` draws is a program to compile.
    """
    dtype = jnp.dtype(jnp.result_type(float) if dtype is None else dtype)
    random = np.random.default_rng(seed)
    drawn = random.standard_normal(shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        drawn = (drawn + 1j * random.standard_normal(shape)) / 2**0.5
    return jnp.asarray(drawn, dtype)


def normal_like(seed: int | tuple[int, ...], tree: Any) -> Any:
    """Draws a tree like `tree` of standard normal numbers. Its leaves may be shapes with dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    seeds = [(*np.atleast_1d(seed).tolist(), i) for i in range(len(leaves))]
    return structure.unflatten([normal(s, *leaf.shape, dtype=leaf.dtype) for s, leaf in zip(seeds, leaves, strict=True)])


def small_like(seed: int | tuple[int, ...], tree: Any, scale: float = 1.0) -> Any:
    """Draws params like `tree`, with which states neither vanish nor saturate.

    The numbers of a matrix have the standard deviation 1/√n, n the size of its last axis, and those
    of a vector 1/2.
    """

    def scaled(leaf: jax.Array) -> jax.Array:
        size = 1 / max(leaf.shape[-1], 1) ** 0.5 if leaf.ndim > 1 else 0.5
        return jnp.asarray(scale * size * np.asarray(leaf, np.float64), leaf.dtype)

    return jax.tree.map(scaled, normal_like(seed, tree))


@cache
def problem(
    cell: gj.Cell,
    seed: int = 0,
    *,
    steps: int = T,
    batch: tuple[int, ...] = (B,),
    input_size: int = D,
    hidden_size: int = H,
    dtype: Any = None,
    bias: bool = True,
    scale: float = 1.0,
) -> Problem:
    """Draws a random problem, and keeps it.

    With the default `scale`, states neither vanish nor saturate. A larger one saturates them.
    """
    dtype = dtype or jnp.result_type(float)
    init = lambda key: cell.init(key, input_size, hidden_size, bias=bias, dtype=dtype)
    params = small_like((seed, 0), jax.eval_shape(init, jax.random.key(0)), scale)
    xs = normal((seed, 1), steps, *batch, input_size, dtype=dtype)
    h0 = normal_like((seed, 2), jax.eval_shape(lambda params: cell.initial_state(params, batch), params))
    outputs = jax.eval_shape(partial(gj.unroll, cell), params, xs, h0)
    return Problem(params, xs, h0, normal_like((seed, 3), outputs))


def scan_of_step(
    cell: Any,
    params: Any,
    xs: Any,
    h0: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reset_state: Any = None,
    reverse: bool = False,
    outputs: str = "all",
) -> tuple[Any, Any]:
    """Runs a `lax.scan` over `cell.step`, the reference that autodiff differentiates.

    It takes the options of `unroll`, with time-major arrays, and any inputs and states that `unroll`
    takes, and shares no code with the engine. `reset_state` defaults to zeros. It may have an axis
    of time.
    """
    axes = cell.num_feature_axes
    first, feature_axes = (jax.tree.leaves(tree)[0] for tree in (xs, dict(axes) if isinstance(axes, dict) else axes))
    leading = first.shape[: first.ndim - feature_axes]
    valid = jnp.ones(leading, bool) if mask is None else jnp.asarray(mask)
    if lengths is not None:
        valid = valid & (jnp.arange(leading[0])[(...,) + (None,) * jnp.ndim(lengths)] < lengths)
    resets = jnp.zeros(leading, bool) if resets is None else jnp.asarray(resets)
    after_reset = jax.tree.map(jnp.zeros_like, h0) if reset_state is None else reset_state
    stored = None
    if jax.tree.leaves(after_reset)[0].ndim > jax.tree.leaves(h0)[0].ndim:
        stored, after_reset = after_reset, None

    def select(condition, one, other):
        at = lambda leaf: condition.reshape(condition.shape + (1,) * (leaf.ndim - condition.ndim))
        return jax.tree.map(lambda a, b: jnp.where(at(b), a, b), one, other)

    def zero_if_masked(valid, tree):
        return select(~valid, jax.tree.map(jnp.zeros_like, tree), tree)

    def step(h, at_t):
        x, valid, reset, stored = at_t
        before = select(reset, after_reset if stored is None else stored, h)
        after, y = cell.step(params, before, zero_if_masked(valid, x))
        h = select(~valid, h, after)
        return h, {"all": zero_if_masked(valid, y), "states": h, "last": None}[outputs]

    return jax.lax.scan(step, h0, (xs, valid, resets, stored), reverse=reverse)


def gradients(run: Callable[..., Any], p: Problem) -> tuple[Any, Any]:
    """Returns the outputs of `run(params, xs, h0)`, and the cotangents of its arguments."""
    outputs, vjp = jax.vjp(run, p.params, p.xs, p.h0)
    return outputs, vjp(p.cotangents)


@cache
def gradients_of_scan(cell: Any, reverse: bool = False) -> Callable[[Problem], tuple[Any, Any]]:
    """Returns the compiled `gradients` of the plain scan, for problems of any shape."""
    return jax.jit(partial(gradients, partial(scan_of_step, cell, reverse=reverse)))


@cache
def gradients_of_unroll(cell: Any, reverse: bool = False, derivative: Any = None) -> Callable[[Problem], tuple[Any, Any]]:
    """Returns the compiled `gradients` of `unroll`, for problems of any shape."""
    options = {"reverse": reverse, "derivative": derivative or gj.CustomVJP()}
    return jax.jit(partial(gradients, partial(gj.unroll, cell, **options)))


def compiled(function: Callable[..., Any], *args: Any) -> Any:
    """Compiles a function as one program, and returns what it returns as arrays of NumPy.

    Outside of such a program every operation on arrays of a new shape is a program of its own.
    """
    return on_host(jax.jit(function)(*args))


def on_host(tree: Any) -> Any:
    """Turns arrays into those of NumPy. Slices and sums of them compile nothing."""
    return jax.tree.map(np.asarray, tree)


def named_leaves(tree: Any) -> dict[str, np.ndarray]:
    """Returns the leaves by path, in float64; complex ones in complex128."""
    wide = lambda leaf: np.asarray(leaf, np.complex128 if jnp.iscomplexobj(leaf) else np.float64)
    return {jax.tree_util.keystr(path): wide(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def errors(tree: Any, reference: Any) -> dict[str, float]:
    """Returns the largest error of each leaf, relative to the largest entry of its reference.

    Structure and shapes must agree.
    """
    assert jax.tree.structure(tree) == jax.tree.structure(reference)
    assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, reference)
    measured, true = named_leaves(tree), named_leaves(reference)
    scales = {path: np.abs(leaf).max(initial=0) or 1.0 for path, leaf in true.items()}
    return {path: float(np.abs(measured[path] - true[path]).max(initial=0) / scales[path]) for path in true}


def tolerance(dtype: Any, longest_sum: int = T * B + D + H) -> float:
    """Returns 8·√n·eps, the error that rounding can explain, relative to the scale of a leaf.

    n is the length of the longest sum that feeds the leaf (Higham; Ipsen and Zhou 2019). In float64
    the contract is 1e-13.
    """
    return max(8 * longest_sum**0.5 * float(jnp.finfo(dtype).eps), 1e-13 if dtype == jnp.float64 else 0)


def assert_close(tree: Any, reference: Any, tol: float | None = None) -> None:
    """Asserts that every leaf of `tree` is within `tol` of `reference`, and not NaN.

    `tol` defaults to the tolerance of the dtype, and to twice that below float64, where the
    reference rounds too.
    """
    dtype = jax.tree.leaves(tree)[0].dtype
    limit = tolerance(dtype) * (1 if dtype == jnp.float64 else 2) if tol is None else tol
    for path, error in errors(tree, reference).items():
        assert error <= limit, f"{path}: relative error {error:.2e} above {limit:.2e}"


def assert_every_mode_equals_autodiff(cell: gj.Cell, **conditions: Any) -> None:
    """Asserts that gradients with each choice of residuals, and tangents, are those of the plain scan."""

    @jax.jit
    def all_modes(p: Problem, dots: Any) -> Any:
        run, plain = partial(gj.unroll, cell, **conditions), partial(scan_of_step, cell, **conditions)
        choices = gj.CustomVJP(residuals="states"), gj.CustomVJP(residuals="gates", block_size=3), gj.CustomJVP()
        by_custom_rules = [gradients(partial(run, derivative=choice), p)[1] for choice in choices]
        tangents = [jax.jvp(f, tuple(p[:3]), dots)[1] for f in (partial(run, derivative=gj.CustomJVP()), plain)]
        return by_custom_rules, gradients(plain, p)[1], tangents

    for seed in SEEDS:
        p = problem(cell, seed)
        by_custom_rules, expected, (tangent, expected_tangent) = all_modes(p, normal_like(seed, p[:3]))
        for bars in by_custom_rules:
            assert_close(bars, expected)
        assert_close(tangent, expected_tangent)


def assert_raises(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    """Asserts that `call` raises `error` with a matching message. A dot also matches a newline."""
    with pytest.raises(error, match=f"(?s){message}"):
        call()
