"""Layers without state, and stacks of residual blocks, against plain functions and single cells."""

import copy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE, LENGTHS, MASK, RESETS
from tests.problems import B, D, H, T, assert_close, assert_raises, compiled, normal, normal_like

FLOAT = jnp.result_type(float)
KEYS = jax.random.split(jax.random.key(13), 4)
DERIVATIVES = {"CustomVJP": gj.CustomVJP(), "CustomJVP": gj.CustomJVP(), "Autodiff": gj.Autodiff()}


def init_norm(key, input_size, hidden_size, dtype=jnp.float32):
    return {"scale": jnp.ones(input_size, dtype), "offset": jnp.zeros(input_size, dtype)}


def normalize(params, x):
    centred = x - x.mean(-1, keepdims=True)
    return params["scale"] * centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3) + params["offset"]


def init_dense(key, input_size, hidden_size, dtype=jnp.float32):
    return normal(0, input_size, hidden_size, dtype=dtype) / input_size**0.5


def multiply(W, x):
    return x @ W


def gelu(params, x):
    return jax.nn.gelu(x)


NORM = gj.feedforward(init_norm, normalize, name="norm")
DENSE = gj.feedforward(init_dense, multiply, name="dense")
GELU = gj.feedforward(None, gelu, name="gelu")
BLOCK = gj.stack([NORM, gj.gru(), DENSE, GELU], residual="block")
NETWORK = gj.stack([DENSE, BLOCK, BLOCK])


def draw(layer, hidden_size=H):
    """Draws random params, xs and a state."""
    params = normal_like(0, jax.eval_shape(lambda key: layer.init(key, D, hidden_size, dtype=FLOAT), KEYS[0]))
    return params, normal(1, T, B, D), normal_like(2, jax.eval_shape(lambda: layer.initial_state(params, B)))


def by_hand(params, xs, h0, valid, **conditions):
    """The network written out, with the cells unrolled by plain autodiff."""
    zeroed = lambda x: jnp.where(valid[..., None], x, 0.0)
    dense, *blocks = params
    x, lasts = zeroed(zeroed(xs) @ dense), [()]
    for (norm, gru, weights, _), (_, h, _, _) in zip(blocks, h0[1:], strict=True):
        y = zeroed(normalize(norm, x))
        h_last, y = gj.unroll(gj.gru(), gru, y, h, derivative=gj.Autodiff(), **conditions)
        x = x + zeroed(jax.nn.gelu(zeroed(y @ weights)))
        lasts.append(((), h_last, (), ()))
    return tuple(lasts), x


VALID = MASK & (np.arange(T)[:, None] < LENGTHS)
CONDITIONS = {"plain": ({}, np.ones((T, B), bool)), "all three": (ALL_THREE, VALID)}


@pytest.mark.slow
@pytest.mark.derivative
@pytest.mark.parametrize(("name", "reverse"), [pytest.param("plain", False, marks=pytest.mark.slow), ("all three", True)])
def test_a_network_of_residual_blocks_equals_the_same_written_out(name, reverse):
    conditions, valid = CONDITIONS[name]
    options = {**conditions, "reverse": reverse}
    args = draw(NETWORK)

    def results(args):
        def of(run):
            loss = lambda args: sum(jnp.sin(2 * leaf).sum() for leaf in jax.tree.leaves(run(*args)))
            return run(*args), jax.grad(loss)(args)

        ours = [partial(gj.unroll, NETWORK, derivative=derivative, **options) for derivative in DERIVATIVES.values()]
        return [of(run) for run in (partial(by_hand, valid=valid, **options), *ours)]

    expected, *measured = compiled(results, args)
    for result in measured:
        assert_close(result, expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected[1]))


def test_steps_of_a_network_of_blocks_equal_unroll():
    params, xs, h = draw(NETWORK)
    step = lambda h, at_t: gj.step(NETWORK, params, h, at_t[0], reset=at_t[1])
    whole = lambda xs, h: gj.unroll(NETWORK, params, xs, h, resets=RESETS)
    assert_close(*compiled(lambda xs, h: (jax.lax.scan(step, h, (xs, RESETS)), whole(xs, h)), xs, h))


def test_layouts_windows_and_last_outputs_equal_unroll():
    params, xs, h0 = draw(NETWORK)

    def results(xs):
        run = partial(gj.unroll, NETWORK, params, xs, h0, lengths=LENGTHS)
        turned = gj.unroll(NETWORK, params, jnp.moveaxis(xs, 0, 1), h0, lengths=LENGTHS, time_major=False)
        in_windows = gj.unroll_truncated(NETWORK, params, xs, h0, window=3, lengths=LENGTHS)
        return run(), ((turned[0], jnp.moveaxis(turned[1], 1, 0)), in_windows), run(outputs="last"), run(outputs="states")[1]

    expected, same, last, states = compiled(results, xs)
    for measured in same:
        assert_close(measured, expected)
    assert_close(last, (expected[0], None))
    assert jax.tree.structure(states) == jax.tree.structure(h0)


def test_nan_in_the_padding_reaches_nothing():
    params, xs, h0 = draw(BLOCK, hidden_size=D)
    padded = np.where((np.arange(T)[:, None] < LENGTHS)[..., None], xs, np.nan)

    def loss(params, xs):
        ys = gj.unroll(BLOCK, params, xs, h0, lengths=LENGTHS)[1]
        return ys.sum(), ys

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    measured = run(params, padded)
    assert_close(measured, run(params, xs), tol=0)
    assert not np.asarray(measured[0][1])[LENGTHS[1] :, 1].any()


def test_a_layer_alone_outputs_zero_at_padding():
    shift = gj.feedforward(lambda key, input_size, hidden_size: jnp.ones(input_size), lambda params, x: x + params)
    _, xs, _ = draw(NORM)
    ys = gj.unroll(shift, jnp.ones(xs.shape[-1], xs.dtype), xs, lengths=LENGTHS)[1]
    assert_close(ys, jnp.where((np.arange(T)[:, None] < LENGTHS)[..., None], xs + 1, 0), tol=0)


def test_a_layer_alone_is_its_function():
    params, xs, h0 = draw(NORM)
    assert h0 == ()
    assert_close(gj.unroll(NORM, params, xs), ((), normalize(params, xs)))
    assert_close(gj.step(NORM, params, (), xs[0]), ((), normalize(params, xs[0])))


def test_a_table_of_tokens_may_be_the_first_layer():
    embed = gj.feedforward(
        lambda key, n, size, **options: jax.random.normal(key, (n, size), jnp.float32), lambda E, t: E[t], num_feature_axes=0
    )
    layers = gj.stack([embed, gj.lstm()])
    tokens = np.random.default_rng(0).integers(0, 6, (T, B))
    shapes = jax.eval_shape(lambda key: layers.init(key, 6, (D, H)), KEYS[0])

    def results(params):
        h_last, ys = gj.unroll(layers, params, tokens, lengths=LENGTHS)
        return (h_last[1], ys), gj.unroll(gj.lstm(), params[1], params[0][tokens], lengths=LENGTHS)

    assert_close(*compiled(results, normal_like(0, shapes)))


def test_both_directions_and_noise_take_layers_without_state():
    cell = gj.bidirectional(gj.stack([NORM, gj.zoneout(gj.gru(), 0.3), DENSE], dropout=0.2), merge="mul")
    params, xs, _ = draw(cell)
    plain = cell.deterministic()

    def results(params, xs):
        noisy = [gj.unroll(cell, params, xs, key=key)[1] for key in KEYS[:2]]
        forward, backward = (gj.unroll(plain.forward_cell, own, xs, reverse=i == 1)[1] for i, own in enumerate(params))
        return noisy, gj.unroll(plain, params, xs)[1], forward * backward

    (one, other), measured, expected = compiled(results, params, xs)
    assert (one != other).any()
    assert_close(measured, expected)


def test_the_compute_dtype_lowers_the_weights():
    params, xs, h0 = draw(NETWORK)
    params, xs, h0 = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, xs, h0))

    def results(params, xs, h0):
        of_network = [gj.unroll(NETWORK, params, xs, h0, compute_dtype=dtype)[1] for dtype in (jnp.bfloat16, None)]
        lowered = gj.unroll(DENSE, params[0], xs, compute_dtype=jnp.bfloat16)[1]
        return of_network, (lowered, xs @ params[0].astype(jnp.bfloat16))

    (low, high), of_dense = compiled(results, params, xs, h0)
    assert (low != high).any()
    assert_close(*of_dense, tol=1e-6)


def test_output_sizes_follow_from_the_size_of_the_input():
    params, *_ = draw(NETWORK)
    assert NETWORK.output_size(params) == H  # the cells inside the blocks tell
    assert DENSE.output_size(params[0], D) == H
    assert GELU.output_size((), 3) == 3
    assert_raises(
        lambda: GELU.output_size(()), ValueError, r"input_size: got None.*inputs that gelu takes: its params alone do not tell"
    )


def test_equal_layers_are_equal_and_static():
    assert gj.feedforward(init_norm, normalize, name="norm") == NORM == copy.deepcopy(NORM)
    assert hash(NORM) == hash(copy.deepcopy(NORM))
    assert jax.tree.leaves(NETWORK) == []


WRONG = gj.feedforward(init_dense, lambda W, x: (x @ W).sum(1), name="wrong")
SCALED = gj.stack([gj.feedforward(lambda key, D, H: 2.0, lambda scale, x: scale * x), gj.gru()])
NARROW = gj.stack([gj.gru(), DENSE], residual="block")
XS = jnp.zeros((T, B, D), jnp.float32)
BAD = {
    "apply": (lambda: gj.feedforward(init_norm, 3), TypeError, r"apply: got 3, expected a function apply\(params, x\)"),
    "init": (lambda: gj.feedforward(3, normalize), TypeError, r"init: got 3, expected a function init\(key"),
    "params of a Python number": (lambda: gj.unroll(SCALED, SCALED.init(KEYS[0], D, H), XS), TypeError, r"params\[0\]: got float, expected an array"),
    "a batch that is summed": (lambda: gj.unroll(WRONG, WRONG.init(KEYS[0], D, H), XS), ValueError, r"apply: got outputs of shape \(7, 5\) from wrong, expected \(7, 3\) and then features"),
    "sizes of a block": (lambda: gj.unroll(NARROW, NARROW.init(KEYS[0], D, H), XS), ValueError, r'params: got 5 outputs over 4 inputs.*residual="block"'),
    "the size of a layer above": (lambda: gj.unroll(gj.stack([gj.gru(), DENSE, gj.gru()]), (*gj.stack([gj.gru(), DENSE]).init(KEYS[0], D, H), gj.gru().init(KEYS[0], D, H)), XS), ValueError, r"params\[2\]: got an input size of 4, expected 5, the output size of the layer below"),
    "residual": (lambda: gj.stack([gj.gru()], residual="all"), ValueError, r"residual: got 'all', expected one of 'block'"),
    "a number for residual": (lambda: gj.stack([gj.gru()], residual=1), TypeError, r"residual: got 1, expected True or False"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_layers_raise_and_name_the_fix(case):
    assert_raises(*BAD[case])
