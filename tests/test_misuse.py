"""Wrong calls of cells, heads, flow, files and verify raise at once and name the argument.

train/test_wrong_calls.py has those of gj.train.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import assert_raises, compiled

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 3)
CELL = gj.gru()
PARAMS = CELL.init(KEY, 3, 4)
XS = np.ones((5, 2, 3), np.float32)
STACK = gj.stack([CELL, CELL])
DENSE = gj.heads.init_dense(KEY, 4, 2)
NOISY = gj.zoneout(CELL, 0.1)

INITS = {
    "gru": CELL.init,
    "lstm": gj.lstm().init,
    "stack": STACK.init,
    "bidirectional": gj.bidirectional(CELL).init,
    "zoneout": NOISY.init,
    "init_dense": gj.heads.init_dense,
}
NOT_KEYS = {"int": 0, "None": None, "float": 1.5, "str": "a", "a number of NumPy": np.uint32(3), "a batch": KEYS, "raw, a batch": np.zeros((3, 2), np.uint32)}  # fmt: skip


@pytest.mark.parametrize("init", INITS)
def test_what_is_not_a_key_raises(init):
    for key in NOT_KEYS.values():
        assert_raises(lambda key=key: INITS[init](key, 3, 4), TypeError, "^key: got .*, expected a jax.random key, for example")
    INITS[init](jax.random.PRNGKey(0), 3, 4)
    jax.eval_shape(jax.vmap(lambda key: INITS[init](key, 3, 4)), KEYS)


@pytest.mark.parametrize("init", INITS)
def test_sizes_flags_dtypes_and_initializers_are_checked(init):
    call = INITS[init]
    for size in (2.5, 4.0, "4", True):
        assert_raises(lambda size=size: call(KEY, size, 4), TypeError, "^(input_size|hidden_size): got .*expected an int")
        assert_raises(lambda size=size: call(KEY, 3, size), TypeError, "^(output_size|hidden_size): got .*expected an int")
    for flag in ("False", "no", 0, None):
        assert_raises(lambda flag=flag: call(KEY, 3, 4, bias=flag), TypeError, "^bias: got .*expected True or False")
    for dtype in (int, bool, jnp.uint8, "float33", object):
        assert_raises(lambda dtype=dtype: call(KEY, 3, 4, dtype=dtype), TypeError, "^dtype: got .*expected ")
    for wrong in (lambda key, shape, dtype: jnp.zeros((9, 9)), lambda key, shape, dtype: 0.0):
        call_with = lambda wrong=wrong: call(KEY, 3, 4, kernel_init=wrong)
        assert_raises(call_with, ValueError, r"^kernel_init: got an array of shape .*, expected \(3, 4\)")
    assert_raises(lambda: call(KEY, 3, 4, kernel_init="glorot"), TypeError, "^kernel_init: got .*expected a function")


scalar = np.float32(1)
WRONG = {
    # flags
    "peephole": (lambda: gj.lstm(peephole="no"), TypeError, "peephole: got 'no', expected True or False"),
    "reverse": (lambda: gj.unroll(CELL, PARAMS, XS, reverse="False"), TypeError, "reverse: got 'False', expected True or False"),
    "time_major": (lambda: gj.unroll(CELL, PARAMS, XS, time_major="no"), TypeError, "time_major: got 'no', expected True or False"),
    "time_major, truncated": (lambda: gj.unroll_truncated(CELL, PARAMS, XS, window=2, time_major=1), TypeError, "time_major: got 1"),
    "per_example": (lambda: gj.flow.contributions(CELL, PARAMS, XS, lambda t, y: y.sum(), per_example="no"), TypeError, "per_example: got 'no'"),
    # sizes
    "window": (lambda: gj.unroll_truncated(CELL, PARAMS, XS, window=2.5), TypeError, "window: got 2.5, expected an int"),
    "block_size": (lambda: gj.CustomVJP(block_size=2.5), TypeError, "block_size: got 2.5, expected an int"),
    "proj_size": (lambda: gj.lstm(proj_size=2.5), TypeError, "proj_size: got 2.5, expected an int"),
    "batch_shape": (lambda: CELL.initial_state(PARAMS, 2.5), TypeError, "batch_shape: got 2.5, expected an int or a tuple of ints"),
    "batch_shape in a tuple": (lambda: CELL.initial_state(PARAMS, (2, 2.5)), TypeError, r"batch_shape: got \(2, 2.5\)"),
    "batch_shape of None": (lambda: CELL.initial_state(PARAMS, None), TypeError, "batch_shape: got None"),
    "hidden sizes": (lambda: STACK.init(KEY, 3, (4, 4.5)), TypeError, "hidden_size: got 4.5, expected an int"),
    "max_bytes": (lambda: gj.flow.contributions(CELL, PARAMS, XS, lambda t, y: y.sum(), max_bytes="1"), TypeError, "max_bytes: got '1'"),
    # keys of noise
    "a key of noise": (lambda: gj.unroll(NOISY, PARAMS, XS, key=3), TypeError, "key: got int, expected a jax.random key"),
    "keys of noise": (lambda: gj.unroll(NOISY, PARAMS, XS, key=KEYS), TypeError, r"key: got key<fry>\[3\].*Pass one of these keys"),
    "a key of a step": (lambda: gj.step(NOISY, PARAMS, jnp.zeros((2, 4)), XS[0], key=5), TypeError, "key: got int"),
    "a bound": (lambda: gj.initializers.symmetric_uniform("a"), ValueError, "bound: got a"),
    # heads
    "predictions that are a scalar": (lambda: gj.heads.squared_error(scalar, scalar), ValueError, r"predictions: got a scalar, expected shape \(…, K\)"),
    "predictions that are text": (lambda: gj.heads.half_squared_error("x", "y"), TypeError, "predictions: got str, expected an array of numbers"),
    "targets that are None": (lambda: gj.heads.squared_error(XS, None), TypeError, "targets: got NoneType, expected an array"),
    "logits that are a scalar": (lambda: gj.heads.softmax_cross_entropy(scalar, 0), ValueError, "logits: got a scalar"),
    "logits that are an int": (lambda: gj.heads.softmax_cross_entropy(3, 0), ValueError, "logits: got a scalar"),
    "labels that are text": (lambda: gj.heads.softmax_cross_entropy(XS, "a"), TypeError, "labels: got str"),
    "logits of one number": (lambda: gj.heads.sigmoid_binary_cross_entropy(scalar, scalar), ValueError, "logits: got a scalar"),
    "losses that are a scalar": (lambda: gj.heads.sum_over_steps(scalar), ValueError, r"axis: got 0 for losses of shape \(\)"),
    "losses without time": (lambda: gj.heads.mean_over_steps(scalar), ValueError, "axis: got 0 for losses"),
    "losses that are None": (lambda: gj.heads.last_step(None), TypeError, "losses: got NoneType"),
    "an axis that is a float": (lambda: gj.heads.sum_over_steps(XS, axis=0.0), TypeError, "axis: got 0.0, expected an int"),
    "an axis that is not there": (lambda: gj.heads.last_step(XS, axis=3), ValueError, "axis: got 3 for losses of shape"),
    "a scalar for hs": (lambda: gj.heads.dense(DENSE, 2.0), TypeError, "hs: got float, expected an array"),
    "None for params of dense": (lambda: gj.heads.dense(None, XS), TypeError, "params: got NoneType, expected DenseParams"),
    # flow
    "no loss": (lambda: gj.flow.contributions(CELL, PARAMS, XS, None), TypeError, "loss: got NoneType, expected a function"),
    "a loss of each output": (lambda: gj.flow.state_sensitivity(CELL, PARAMS, XS, lambda t, y: y), TypeError, r"loss: got a result of shape \(2, 4\)"),
    "a loss that is an int": (lambda: gj.flow.contributions(CELL, PARAMS, XS, lambda t, y: 3), TypeError, "loss: got a result of .*int"),
    "a loss of one argument": (lambda: gj.flow.contributions(CELL, PARAMS, XS, lambda y: y.sum()), TypeError, r"loss: calling loss\(t, y_t\) failed"),
    "a norm of None": (lambda: gj.flow.norm(None), TypeError, "x: got NoneType, expected an array"),
    # verify
    "a key for verify": (lambda: gj.verify_vjp(jnp.sin, jnp.ones(3), key=0), TypeError, "key must be a jax.random key"),
    "rtol": (lambda: gj.verify_vjp(jnp.sin, jnp.ones(3), rtol="a"), ValueError, "rtol must be in .* got 'a'"),
    "checks": (lambda: gj.verify_vjp(jnp.sin, jnp.ones(3), checks=3), TypeError, "checks, .* must be names, got 3"),
    "a reference": (lambda: gj.verify_vjp(jnp.sin, jnp.ones(3), reference=3), TypeError, "reference must be a function, got 3"),
    # files
    "no path to load": (lambda: gj.convert.load_safetensors(None), TypeError, "path: got NoneType, expected the path"),
    "no path to save": (lambda: gj.convert.save_safetensors(3, {"a": XS}), TypeError, "path: got int, expected the path"),
    "a list of tensors": (lambda: gj.convert.save_safetensors("x", [XS]), TypeError, "tensors: got list, expected a mapping"),
    "no path of a model": (lambda: gj.convert.load_onnx(None), TypeError, "source: got NoneType, expected a path"),
    "reverse of a model": (lambda: gj.convert.save_onnx("x", CELL, PARAMS, reverse="False"), TypeError, "reverse: got 'False'"),
    "a path with a null": (lambda: gj.convert.save_onnx("a\0b", CELL, PARAMS), ValueError, "path: got 'a.x00b', expected the path of a file"),
    "an empty path": (lambda: gj.convert.save_safetensors("", {"a": XS}), ValueError, "path: got '', expected the path of a file"),
    "a tensor that is text": (lambda: gj.convert.save_safetensors("x", {"a": "b"}), TypeError, r"tensors\['a'\]: got <U1, expected an array of numbers"),
    "a tensor that is a key": (lambda: gj.convert.save_safetensors("x", {"a": KEY}), TypeError, r"tensors\['a'\]: got key<fry>, expected an array of numbers"),
    "a reserved name": (lambda: gj.convert.save_safetensors("x", {"__metadata__": XS}), ValueError, "tensors: got the name '__metadata__'"),
    "a dtype that the format does not have": (lambda: gj.convert.save_safetensors("x", {"a": np.ones(2, np.complex128)}), TypeError, "tensors: got a dtype that the format does not have.*complex128"),
    "names that are integers": (lambda: gj.convert.from_pytorch(gj.lstm(), {0: XS}), TypeError, "state_dict: got the name 0, expected strings"),
    "a dtype that is none": (lambda: gj.convert.from_onnx(CELL, gj.convert.to_onnx(CELL, PARAMS), dtype="x"), TypeError, "dtype: got 'x', expected float64"),
    "a fraction of a node": (lambda: gj.convert.load_onnx("x", node=1.5), TypeError, r"node: got 1.5 \(float\), expected the name or the index"),
    "a node that is a flag": (lambda: gj.convert.load_onnx("x", node=True), TypeError, r"node: got True \(bool\)"),
    "no path to a model": (lambda: gj.convert.save_onnx(3, CELL, PARAMS), TypeError, "path: got int, expected the path"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_raises_and_names_the_argument(name):
    call, error, message = WRONG[name]
    assert_raises(call, error, f"^{message}")


def test_directories_and_missing_directories_raise(tmp_path):
    for save in (
        lambda path: gj.convert.save_safetensors(path, {"a": XS}),
        lambda path: gj.convert.save_onnx(path, CELL, PARAMS),
    ):
        assert_raises(lambda save=save: save(tmp_path), IsADirectoryError, "^path: got .*, a directory, expected")
        assert_raises(lambda save=save: save(tmp_path / "no" / "x"), FileNotFoundError, "^path: got .*Make .*no first")
    assert_raises(lambda: gj.convert.load_safetensors(tmp_path), ValueError, "^path: got .*, a directory, expected")
    assert not list(tmp_path.iterdir())


def test_flow_of_no_steps_and_in_half_precision():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    xs = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    measures = gj.flow.jacobian_norms, gj.flow.lyapunov_exponents

    def results(half, single, xs):
        rounded = xs.astype(jnp.bfloat16)
        in_both = [(f(CELL, half, rounded), f(CELL, single, rounded.astype(jnp.float32))) for f in measures]
        of_no_steps = [f(CELL, PARAMS, xs[:0]) for f in measures]
        of_loss = [f(CELL, PARAMS, xs[:0], lambda t, y: y.sum()) for f in (gj.flow.contributions, gj.flow.state_sensitivity)]
        return in_both, of_no_steps, of_loss

    in_both, (norms, exponents), (terms, sensitivity) = compiled(results, half, single, xs)
    for found, expected in in_both:
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=0.1)
    assert norms.shape == (0, 2)
    assert np.isnan(exponents).all()
    assert terms.W_z.shape == (0, 0, 3, 4)
    assert sensitivity.shape == (0, 0, 2)
