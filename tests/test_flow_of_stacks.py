"""`gj.flow` of stacks, of cells with a read-out, and of params with batch axes, against Python loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gru_jax as gj
from tests.conditions import ALL_THREE
from tests.engine.test_leaves_that_are_not_floats import PROBLEMS
from tests.problems import B, D, H, T, assert_close, normal_like

pytestmark = pytest.mark.derivative

FLOAT = jnp.result_type(float)
KEYS = jax.random.split(jax.random.key(17), 4)
SIZES = (H, (6, 2, H), H)
TARGETS = jax.random.normal(KEYS[3], (T, B, H), FLOAT)


def init_dense(key, input_size, hidden_size, **options):
    return jax.random.normal(key, (input_size, hidden_size), FLOAT) / input_size**0.5


def dense(W, x):
    return jnp.sin(x @ W)


DENSE = gj.feedforward(init_dense, dense, name="dense")
BLOCK = gj.stack([gj.lstm(), gj.elman(), DENSE], residual="block")
NETWORK = gj.stack([DENSE, BLOCK, gj.gru()], residual=True)


def loss(t, y):
    """Computes the loss of step t, a sum over examples."""
    return jnp.sum(jnp.sin(y - TARGETS[t]) * (1 + t))


@pytest.fixture(scope="module")
def drawn():
    params = normal_like(KEYS[0], NETWORK.init(KEYS[0], D, SIZES, dtype=FLOAT))
    params = jax.tree.map(lambda leaf: 0.6 * leaf, params)
    return params, jax.random.normal(KEYS[1], (T, B, D), FLOAT), normal_like(KEYS[2], NETWORK.initial_state(params, B))


def step(params, h, x):
    """One step of the network, written out."""
    (W0, (lstm, elman, W1), gru), (_, (h_lstm, h_elman, _), h_gru) = params, h
    first = dense(W0, x)
    h_lstm, y = gj.lstm().step(lstm, h_lstm, first)
    h_elman, y = gj.elman().step(elman, h_elman, y)
    second = first + (first + dense(W1, y))  # the block adds its input, and so does the network
    h_gru, y = gj.gru().step(gru, h_gru, second)
    return ((), (h_lstm, h_elman, ()), h_gru), second + y


def select(condition, one, other):
    return jax.tree.map(lambda a, b: jnp.where(condition[:, None], a, b), one, other)


def losses(params_by_step, xs, h, bumps=None, lengths=None, mask=None, resets=None, reset_state=None):
    """Computes all losses in a loop in which every step has its own params.

    `bumps` are added to the state after each step.
    """
    found = []
    for k in range(T):
        valid = np.ones(B, bool) if mask is None else mask[k] & (k < lengths)
        if resets is not None:
            h = select(resets[k] & valid, reset_state, h)
        new, y = step(jax.tree.map(lambda leaf: leaf[k], params_by_step), h, xs[k])
        h = select(valid, new, h)
        if bumps is not None:
            h = jax.tree.map(lambda leaf, own: leaf + own[k], h, bumps)
            y = gj_output(params_by_step, k, h, xs[k])
        found.append(loss(k, jnp.where(valid[:, None], y, 0)))
    return jnp.stack(found)


def gj_output(params_by_step, k, h, x):
    """The output of the network from the states after a step."""
    (W0, (_, _, W1), _), (_, (_, h_elman, _), h_gru) = jax.tree.map(lambda leaf: leaf[k], params_by_step), h
    first = dense(W0, x)
    return first + first + dense(W1, h_elman) + h_gru


@pytest.mark.parametrize("conditional", [pytest.param(False, marks=pytest.mark.slow), True], ids=["plain", "all three"])
def test_every_term_of_a_stack_is_the_derivative_of_one_loss_by_the_params_at_one_step(drawn, conditional):
    params, xs, h0 = drawn
    conditions = ALL_THREE | {"reset_state": jax.tree.map(lambda leaf: leaf[::-1], h0)} if conditional else {}
    shared = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (T, *leaf.shape)), params)
    expected = jax.jit(jax.jacrev(partial(losses, **conditions)))(shared, xs, h0)
    split = jax.jit(lambda: gj.flow.contributions(NETWORK, params, xs, loss, h0, **conditions))()
    assert_close(split, expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected))
    norms = jax.jit(lambda: gj.flow.contribution_norms(NETWORK, params, xs, loss, h0, **conditions))()
    assert_close(norms, jax.tree.map(lambda leaf: gj.flow.norm(leaf, tuple(range(2, leaf.ndim))), expected))


def test_the_sensitivity_to_each_layer_is_the_norm_of_the_gradient_at_its_state(drawn):
    params, xs, h0 = drawn
    shared = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (T, *leaf.shape)), params)
    zeros = jax.tree.map(lambda leaf: jnp.zeros((T, *leaf.shape), FLOAT), h0)
    bars = jax.jit(jax.jacrev(lambda bumps: losses(shared, xs, h0, bumps)))(zeros)
    norm = lambda tree: jnp.sqrt(sum((leaf**2).sum(-1) for leaf in jax.tree.leaves(tree)))
    _, (lstm, elman, _), gru = bars
    measured = gj.flow.state_sensitivity(NETWORK, params, xs, loss, h0)
    assert_close(measured, ((), (norm(lstm), norm(elman), ()), norm(gru)))


@pytest.mark.parametrize("conditional", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "all three"])
def test_jacobians_and_exponents_of_a_stack_are_those_of_each_layer_with_its_inputs(drawn, conditional):
    params, xs, h0 = drawn
    conditions = ALL_THREE if conditional else {}
    reset = lambda i, j=None: {"reset_state": (h0[i] if j is None else h0[i][j])} if conditional else {}
    Js = gj.flow.jacobians(NETWORK, params, xs, h0, **conditions, **({"reset_state": h0} if conditional else {}))
    run = partial(gj.unroll, **conditions)
    first = dense(params[0], xs)
    of_lstm = run(gj.lstm(), params[1][0], first, h0[1][0], **reset(1, 0))[1]
    of_elman = run(gj.elman(), params[1][1], of_lstm, h0[1][1], **reset(1, 1))[1]
    second = 2 * first + dense(params[1][2], of_elman)
    alone = partial(gj.flow.jacobians, **conditions)
    expected = (
        (),
        (
            alone(gj.lstm(), params[1][0], first, h0[1][0], **reset(1, 0)),
            alone(gj.elman(), params[1][1], of_lstm, h0[1][1], **reset(1, 1)),
            (),
        ),
        alone(gj.gru(), params[2], second, h0[2], **reset(2)),
    )
    assert_close(Js, expected)
    if not conditional:  # the exponents measure what a step of the whole network does
        exponents = gj.flow.lyapunov_exponents(NETWORK, params, xs, h0)
        assert jax.tree.map(jnp.shape, exponents) == ((), ((B, 2 * 6), (B, 2), ()), (B, H))
        whole = jax.jacobian(lambda flat: ravel_pytree(step(params, unravel(flat), xs[0])[0])[0])
        flat, unravel = ravel_pytree(h0)
        sizes = {jax.tree.leaves(Js)[i].shape[-1] for i in range(3)}
        assert sizes == {12, 2, 5}
        determinant = sum(np.linalg.slogdet(J[0]).logabsdet.sum() for J in jax.tree.leaves(Js))
        np.testing.assert_allclose(np.linalg.slogdet(whole(flat)).logabsdet, determinant, rtol=1e-6)
        norms = gj.flow.jacobian_norms(NETWORK, params, xs, h0)
        assert_close(norms, jax.tree.map(lambda J: jnp.asarray(np.linalg.svd(J, compute_uv=False)[..., 0]), Js))


def test_the_terms_of_a_read_out_belong_to_the_step_of_the_loss():
    cell = gj.Cell(
        init_dense,
        project=lambda p, x: x @ p["W"],
        gates=lambda p, u, h: jnp.tanh(u + h @ p["U"]),
        update=lambda g, h: g,
        read_out=lambda p, x, y: jnp.sin(y @ p["C"] + x @ p["D"]),
        zero_state=lambda p: jnp.zeros(6, FLOAT),
    )
    shapes = {"W": (D, 6), "U": (6, 6), "C": (6, H), "D": (D, H)}
    params = normal_like(KEYS[0], {name: jnp.zeros(shape, FLOAT) for name, shape in shapes.items()})
    xs = jax.random.normal(KEYS[1], (T, B, D), FLOAT)

    def losses(params_by_step):
        h, found = jnp.zeros((B, 6), FLOAT), []
        for k in range(T):
            p = jax.tree.map(lambda leaf: leaf[k], params_by_step)
            h = jnp.tanh(xs[k] @ p["W"] + h @ p["U"])
            found.append(loss(k, jnp.sin(h @ p["C"] + xs[k] @ p["D"])))
        return jnp.stack(found)

    shared = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (T, *leaf.shape)), params)
    expected = jax.jit(jax.jacrev(losses))(shared)
    split = gj.flow.contributions(cell, params, xs, loss)
    assert_close(split, expected)
    of_read_out = np.abs(np.asarray(split["D"])).sum((2, 3)) > 0
    assert (of_read_out == np.eye(T, dtype=bool)).all()
    quadratic = lambda t, y: ((y - 0.1 * t) ** 2).sum()
    by_example = gj.flow.contributions(cell, params, xs, quadratic, per_example=True)
    alone = gj.flow.contributions(cell, params, xs[:, 1], quadratic)
    assert_close(jax.tree.map(lambda leaf: leaf[:, :, 1], by_example), alone)


def test_per_example_terms_of_params_with_batch_axes_are_those_of_the_loss_of_one_example():
    cell, params = PROBLEMS["a memory and its mask"]
    xs = jax.random.normal(KEYS[1], (T, B, D), FLOAT)
    whole = lambda t, y: ((y - 0.1 * t) ** 2).sum()
    split = gj.flow.contributions(cell, params, xs, whole, per_example=True)
    assert split.memory.shape == (T, T, B, *params.memory.shape)
    assert split.W.shape == (T, T, B, D, H)
    for b in range(B):
        only = gj.flow.contributions(cell, params, xs, lambda t, y, b=b: ((y[b] - 0.1 * t) ** 2).sum())
        assert_close(jax.tree.map(lambda leaf, b=b: leaf[:, :, b], split), only)
