"""`gj.flow` of stacks, of cells with a read-out, and of params with batch axes, against autodiff."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gru_jax as gj
from tests.conditions import ALL_THREE
from tests.problems import B, D, H, T, assert_close, compiled, normal, normal_like
from tests.unusual_cells import LEAF_PROBLEMS

pytestmark = pytest.mark.derivative

FLOAT = jnp.result_type(float)
SIZES = (H, (6, 2, H), H)
STEPS = jnp.arange(T)
TARGETS = normal(3, T, B, H)


def init_dense(key, input_size, hidden_size, **options):
    return jnp.zeros((input_size, hidden_size), FLOAT)


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
    shapes = jax.eval_shape(lambda key: NETWORK.init(key, D, SIZES, dtype=FLOAT), jax.random.key(0))
    params = jax.tree.map(lambda leaf: 0.3 * leaf, normal_like(0, shapes))
    return params, normal(1, T, B, D), normal_like(2, jax.eval_shape(lambda: NETWORK.initial_state(params, B)))


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
    none = np.zeros((T, B), bool)
    valid = ~none if mask is None else mask & (np.arange(T)[:, None] < lengths)

    def at_step(h, at_k):
        params, x, valid, reset, bump = at_k
        if resets is not None:
            h = select(reset & valid, reset_state, h)
        new, y = step(params, h, x)
        h = select(valid, new, h)
        if bumps is not None:
            h = jax.tree.map(jnp.add, h, bump)
            y = output(params, h, x)
        return h, jnp.where(valid[:, None], y, 0)

    _, ys = jax.lax.scan(at_step, h, (params_by_step, xs, valid, none if resets is None else resets, bumps))
    return jax.vmap(loss)(STEPS, ys)


def output(params, h, x):
    """The output of the network from the states after a step."""
    (W0, (_, _, W1), _), (_, (_, h_elman, _), h_gru) = params, h
    first = dense(W0, x)
    return first + first + dense(W1, h_elman) + h_gru


def shared(params):
    """A copy of the params for each step."""
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (T, *leaf.shape)), params)


def norm(leaf):
    return np.sqrt((leaf**2).sum(tuple(range(2, leaf.ndim))))


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "all three"])
def test_every_term_of_a_stack_is_the_derivative_of_one_loss_by_the_params_at_one_step(drawn, conditional):
    params, xs, h0 = drawn
    conditions = ALL_THREE | {"reset_state": jax.tree.map(lambda leaf: leaf[::-1], h0)} if conditional else {}
    expected = compiled(jax.jacrev(partial(losses, **conditions)), shared(params), xs, h0)
    terms = gj.flow.contributions, gj.flow.contribution_norms
    run = lambda params, xs, h0: [each(NETWORK, params, xs, loss, h0, **conditions) for each in terms]
    split, norms = compiled(run, params, xs, h0)
    assert_close(split, expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected))
    assert_close(norms, jax.tree.map(norm, expected))


@pytest.mark.slow
def test_the_sensitivity_to_each_layer_is_the_norm_of_the_gradient_at_its_state(drawn):
    params, xs, h0 = drawn
    zeros = jax.tree.map(lambda leaf: np.zeros((T, *leaf.shape), FLOAT), h0)
    bars = compiled(jax.jacrev(lambda bumps: losses(shared(params), xs, h0, bumps)), zeros)
    of_layer = lambda tree: np.sqrt(sum((leaf**2).sum(-1) for leaf in jax.tree.leaves(tree)))
    _, (lstm, elman, _), gru = bars
    measured = compiled(lambda params, xs, h0: gj.flow.state_sensitivity(NETWORK, params, xs, loss, h0), params, xs, h0)
    assert_close(measured, ((), (of_layer(lstm), of_layer(elman), ()), of_layer(gru)))


@pytest.mark.parametrize("conditional", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "all three"])
def test_jacobians_and_exponents_of_a_stack_are_those_of_each_layer_with_its_inputs(drawn, conditional):
    params, xs, h0 = drawn
    conditions = ALL_THREE if conditional else {}
    reset = lambda i, j=None: {"reset_state": (h0[i] if j is None else h0[i][j])} if conditional else {}
    run, alone = partial(gj.unroll, **conditions), partial(gj.flow.jacobians, **conditions)

    def results(params, xs, h0):
        Js = gj.flow.jacobians(NETWORK, params, xs, h0, **conditions, **({"reset_state": h0} if conditional else {}))
        first = dense(params[0], xs)
        lstm, elman = (gj.lstm(), params[1][0], first, h0[1][0]), (gj.elman(), params[1][1])
        of_lstm = run(*lstm, **reset(1, 0))[1]
        of_elman = run(*elman, of_lstm, h0[1][1], **reset(1, 1))[1]
        second = 2 * first + dense(params[1][2], of_elman)
        of_block = alone(*lstm, **reset(1, 0)), alone(*elman, of_lstm, h0[1][1], **reset(1, 1)), ()
        expected = (), of_block, alone(gj.gru(), params[2], second, h0[2], **reset(2))
        if conditional:
            return Js, expected
        flat, unravel = ravel_pytree(h0)
        whole = jax.jacobian(lambda flat: ravel_pytree(step(params, unravel(flat), xs[0])[0])[0])(flat)
        measures = gj.flow.lyapunov_exponents, gj.flow.jacobian_norms
        return Js, expected, whole, *(measure(NETWORK, params, xs, h0) for measure in measures)

    Js, expected, *rest = compiled(results, params, xs, h0)
    assert_close(Js, expected)
    if not conditional:  # the exponents measure what a step of the whole network does
        whole, exponents, norms = rest
        assert jax.tree.map(jnp.shape, exponents) == ((), ((B, 2 * 6), (B, 2), ()), (B, H))
        assert {J.shape[-1] for J in jax.tree.leaves(Js)} == {12, 2, 5}
        determinant = sum(np.linalg.slogdet(J[0]).logabsdet.sum() for J in jax.tree.leaves(Js))
        np.testing.assert_allclose(np.linalg.slogdet(whole).logabsdet, determinant, rtol=1e-6)
        assert_close(norms, jax.tree.map(lambda J: np.linalg.svd(J, compute_uv=False)[..., 0], Js))


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
    params = {name: normal(ord(name), *shape) for name, shape in shapes.items()}
    xs = normal(1, T, B, D)

    def losses(params_by_step):
        def at_step(h, at_k):
            p, x = at_k
            h = jnp.tanh(x @ p["W"] + h @ p["U"])
            return h, jnp.sin(h @ p["C"] + x @ p["D"])

        return jax.vmap(loss)(STEPS, jax.lax.scan(at_step, jnp.zeros((B, 6), FLOAT), (params_by_step, xs))[1])

    def results(params):
        quadratic = lambda t, y: ((y - 0.1 * t) ** 2).sum()
        run = partial(gj.flow.contributions, cell, params)
        return run(xs, loss), run(xs, quadratic, per_example=True), run(xs[:, 1], quadratic)

    split, by_example, alone = compiled(results, params)
    assert_close(split, compiled(jax.jacrev(losses), shared(params)))
    of_read_out = np.abs(split["D"]).sum((2, 3)) > 0
    assert (of_read_out == np.eye(T, dtype=bool)).all()
    assert_close(jax.tree.map(lambda leaf: leaf[:, :, 1], by_example), alone)


def test_per_example_terms_of_params_with_batch_axes_are_those_of_the_loss_of_one_example():
    cell, params = LEAF_PROBLEMS["a memory and its mask"]
    xs = normal(1, T, B, D)

    def results(params, xs):
        terms = lambda weights, **options: gj.flow.contributions(
            cell, params, xs, lambda t, y: (weights[:, None] * (y - 0.1 * t) ** 2).sum(), **options
        )
        return terms(jnp.ones(B), per_example=True), jax.vmap(terms)(jnp.eye(B))

    split, only = compiled(results, params, xs)
    assert split.memory.shape == (T, T, B, *params.memory.shape)
    assert split.W.shape == (T, T, B, D, H)
    for b in range(B):
        assert_close(jax.tree.map(lambda leaf, b=b: leaf[:, :, b], split), jax.tree.map(lambda leaf, b=b: leaf[b], only))
