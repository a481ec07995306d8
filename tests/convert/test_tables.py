"""Tests of the conversions that need no other library: round trips, jit, grad, and errors."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from gru_jax.convert.equinox import EQUINOX
from gru_jax.convert.flax import LINEN, NNX, NNX_OPTIMIZED_LSTM
from gru_jax.convert.haiku import HAIKU
from gru_jax.convert.keras import KERAS
from gru_jax.convert.onnx import ONNX
from gru_jax.convert.pytorch import PYTORCH
from tests.convert.parity import D, H, assert_same_bits, normal, random_params
from tests.problems import ACTIVATED, CELLS, assert_close, assert_raises, compiled

convert = gj.convert
AFTER = gj.gru(reset_after=True)
LIBRARIES = {
    "pytorch": (PYTORCH, convert.from_pytorch, convert.to_pytorch),
    "pytorch cell": (PYTORCH, convert.from_pytorch, partial(convert.to_pytorch, cell_module=True)),
    "keras": (KERAS, convert.from_keras, convert.to_keras),
    "linen": (LINEN, convert.from_flax_linen, convert.to_flax_linen),
    "nnx": (NNX, convert.from_flax_nnx, convert.to_flax_nnx),
    "haiku": (HAIKU, convert.from_haiku, convert.to_haiku),
    "equinox": (EQUINOX, convert.from_equinox, convert.to_equinox),
    "onnx": (ONNX, convert.from_onnx, convert.to_onnx),
}
OTHER_ACTIVATIONS = [ACTIVATED[name] for name in ("elman_leaky_relu", "gru_reset_after_hard", "lstm_hard")]
PROJECTED = gj.lstm(proj_size=2)
PAIRS = (
    [("pytorch", PROJECTED)]
    + [
        (name, cell)
        for name, (library, *_) in LIBRARIES.items()
        for cell in library.tables
        if name != "pytorch cell" or cell != gj.lstm(proj_size=1)
    ]
    + [(name, cell) for name in ("keras", "linen", "nnx", "onnx") for cell in OTHER_ACTIVATIONS]
)
every_pair = pytest.mark.parametrize(("name", "cell"), PAIRS, ids=lambda item: item if isinstance(item, str) else item.name)
one_pair_of_each_library = pytest.mark.parametrize(
    ("name", "cell"),
    [
        pytest.param(
            name,
            cell,
            id=f"{name}-{cell.name}",
            marks=() if cell == (gj.lstm() if name == "haiku" else AFTER) else pytest.mark.slow,
        )
        for name, cell in PAIRS
    ],
)


def params_for(name, cell, dtype=np.float64, seed=0, bias=True):
    """Draws parameters that the library can represent, with +0 and −0 among the biases."""
    params = random_params(cell, dtype, seed, bias)
    if name == "nnx" and hasattr(params, "c_h"):
        params = params._replace(c_h=None)
    if bias and "b_z" in params._fields:
        params = params._replace(b_z=params.b_z.at[:2].set(jnp.array([0.0, -0.0], dtype)))
    if name == "haiku" and cell == gj.lstm():  # b_f − 1 is exact here; another test covers the rounding
        params = params._replace(b_f=jnp.asarray(np.linspace(0.5, 2, H), dtype))
    return params


@pytest.mark.parametrize(
    ("name", "cell", "dtype"),
    [
        pytest.param(
            name,
            cell,
            dtype,
            id=f"{name}-{cell.name}-{np.dtype(dtype).name}",
            marks=() if dtype == np.float64 or (dtype == jnp.bfloat16 and cell == AFTER) else pytest.mark.slow,
        )
        for dtype in (np.float64, jnp.bfloat16, np.float32, np.float16)
        for name, cell in PAIRS
    ],
)
def test_a_round_trip_preserves_every_bit(name, cell, dtype, needs_x64):
    _, load, save = LIBRARIES[name]
    params = params_for(name, cell, dtype)
    assert_same_bits(load(cell, save(cell, params)), params)


@one_pair_of_each_library
def test_conversions_work_under_jit_and_grad(name, cell, needs_x64):
    """The VJP must be the transpose of the JVP: ⟨bar, moved⟩ equals ⟨cotangent, tangent⟩."""
    _, load, save = LIBRARIES[name]
    params = params_for(name, cell)
    traced = compiled(partial(save, cell), params)
    assert_close(traced, jax.tree.map(np.asarray, save(cell, params)), tol=0)
    back = jax.eval_shape(partial(load, cell), traced)
    given = random_params(cell, seed=3)
    cotangent = type(back)(*(g if leaf is not None else None for g, leaf in zip(given, back, strict=True)))
    moved = jax.tree.map(lambda leaf: np.random.default_rng(leaf.size).normal(size=leaf.shape), traced)

    def products(tree, moved, cotangent):
        run = partial(load, cell)
        return jax.vjp(run, tree)[1](cotangent)[0], jax.jvp(run, (tree,), (moved,))[1]

    bar, tangent = compiled(products, traced, moved, cotangent)
    dot = lambda a, b: sum(float((x * y).sum()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    np.testing.assert_allclose(dot(bar, moved), dot(cotangent, tangent), rtol=1e-12)


@pytest.mark.parametrize("name", ["pytorch", "keras", "equinox", "onnx"])
def test_a_round_trip_without_biases_preserves_every_bit(name):
    library, load, save = LIBRARIES[name]
    for cell in library.tables:
        if cell != gj.lstm(peephole=True):
            params = random_params(cell, np.float32, bias=False)
            form = {"reset_after": cell == AFTER} if name == "keras" and "gru" in cell.name else {}
            assert_same_bits(load(cell, save(cell, params), **form), params)


def test_a_round_trip_of_layers_and_directions_preserves_every_bit():
    mixed = [gj.bidirectional(gj.lstm()), gj.lstm(), gj.bidirectional(AFTER), gj.bidirectional(gj.gru(), merge="sum")]
    for name, cells in {"pytorch": [gj.bidirectional(gj.lstm())] * 3, "keras": mixed}.items():
        cell = gj.stack(cells)
        params = random_params(cell, np.float32)
        assert_same_bits(LIBRARIES[name][1](cell, LIBRARIES[name][2](cell, params)), params)
    for cell in (gj.bidirectional(gj.gru()), gj.bidirectional(gj.elman("sigmoid"))):
        params = random_params(cell, np.float32)
        assert_same_bits(convert.from_onnx(cell, convert.to_onnx(cell, params)), params)


def test_two_biases_fold_into_their_sum():
    params = random_params(AFTER)
    state_dict = convert.to_pytorch(AFTER, params)
    np.testing.assert_array_equal(state_dict["bias_hh_l0"][: 2 * H], -0.0)
    moved = state_dict | {
        "bias_ih_l0": state_dict["bias_ih_l0"] - np.r_[np.ones(2 * H), np.zeros(H)],
        "bias_hh_l0": state_dict["bias_hh_l0"] + np.r_[np.ones(2 * H), np.zeros(H)],
    }
    assert_close(convert.from_pytorch(AFTER, moved), params)


@every_pair
def test_a_round_trip_from_the_library_preserves_every_bit_unless_biases_fold(name, cell):
    library, load, save = LIBRARIES[name]
    entries = entries_of(library.table_for(cell))
    tensors = normal(jax.tree.map(np.asarray, save(cell, params_for(name, cell, np.float32))), seed=4)
    back = save(cell, load(cell, tensors))
    if len({entry.field for entry in entries}) == len(entries) and not any(entry.offset for entry in entries):
        assert_same_bits(jax.tree.map(np.asarray, back), jax.tree.map(np.asarray, tensors))
    assert_close(load(cell, back), load(cell, tensors))  # the function is preserved in any case


def test_haiku_stores_the_forget_bias_minus_one_and_it_comes_back_within_one_rounding(needs_x64):
    params = random_params(gj.lstm())
    tree = convert.to_haiku(gj.lstm(), params)
    np.testing.assert_allclose(tree["lstm/linear"]["b"][2 * H : 3 * H], params.b_f - 1, rtol=1e-15)
    back = convert.from_haiku(gj.lstm(), tree)
    np.testing.assert_allclose(back.b_f, params.b_f, atol=2 * np.finfo(np.float64).eps)
    assert_same_bits(back._replace(b_f=None), params._replace(b_f=None))


def test_conversions_copy_the_arrays():
    """Without a copy, JAX would share memory with an array that may still be trained in place."""
    params = random_params(AFTER, np.float32)
    arrays = convert.to_pytorch(AFTER, params)
    back = convert.from_pytorch(AFTER, arrays)
    weights = convert.to_keras(AFTER, params)
    from_keras = convert.from_keras(AFTER, weights)
    for array in [*arrays.values(), *weights]:
        assert array.flags.c_contiguous
        array += 1
    assert_same_bits(back, params)
    assert_same_bits(from_keras, params)


# ---- error messages


def torch_dict(cell=AFTER, **change):
    """Makes a state dict of random weights, with some entries replaced, or removed for None."""
    found = convert.to_pytorch(cell, random_params(cell, np.float32))
    return {k: v for k, v in (found | change).items() if v is not None}


BOTH = gj.bidirectional(AFTER)
RESETS_AFTER = "Its GRU applies the reset gate after the matmul, but gj.gru() applies it before"
BAD_INPUT = {
    "reset before in PyTorch": (convert.from_pytorch, gj.gru(), {}, TypeError, re.escape(f"cell: got gru(), which PyTorch cannot represent. Expected one of gj.gru(reset_after=True), gj.lstm(peephole=False), gj.lstm(peephole=False, proj_size=…), gj.elman('tanh'), gj.elman('relu'). {RESETS_AFTER}")),
    "reset before in linen": (convert.from_flax_linen, gj.gru(), {}, TypeError, re.escape(RESETS_AFTER)),
    "reset before in NNX": (convert.from_flax_nnx, gj.gru(), {}, TypeError, re.escape(RESETS_AFTER)),
    "reset before in Equinox": (convert.from_equinox, gj.gru(), {}, TypeError, re.escape(RESETS_AFTER)),
    "reset after in Haiku": (convert.from_haiku, AFTER, {}, TypeError, r"Its GRU applies the reset gate before the matmul.*Use gj\.gru\(\)"),
    "peepholes": (convert.from_keras, gj.lstm(peephole=True), [], TypeError, "Keras cannot represent.*has no peephole connections"),
    "sigmoid": (convert.from_pytorch, gj.elman("sigmoid"), {}, TypeError, r"elman\('sigmoid'\), which PyTorch cannot"),
    "a relu gate in Keras": (convert.from_keras, gj.gru(gate_activation="relu"), [], TypeError, r"got gru\(gate_activation='relu'\), which Keras cannot represent: its z multiplies the old state.*Use one with σ\(−a\) = 1 − σ\(a\)"),
    "a shifted gate in ONNX": (convert.from_onnx, gj.gru(gate_activation=gj.cells.Activation("hard_sigmoid", beta=0.4)), {}, TypeError, "which ONNX cannot represent: its z multiplies the old state"),
    "a hard LSTM in PyTorch": (convert.from_pytorch, gj.lstm(gate_activation="hard_sigmoid"), {}, TypeError, r"got lstm\(peephole=False, gate_activation='hard_sigmoid'\), which PyTorch cannot"),
    "a replaced cell": (convert.from_pytorch, replace(AFTER, output=jnp.negative), {}, TypeError, r"got a cell made by replace of gru\(reset_after=True\), which PyTorch cannot"),
    "Keras' GRU of either form": (convert.from_keras, gj.gru(), convert.to_keras(gj.gru(), random_params(gj.gru(), bias=False)), ValueError, r"reset_after: got None for a GRU without biases.*must be False for gru\(\)"),
    "Keras' other form": (partial(convert.from_keras, reset_after=True), gj.gru(), convert.to_keras(gj.gru(), random_params(gj.gru(), bias=False)), ValueError, r"reset_after: got True, expected False for gru\(\).*Use gj\.gru\(reset_after=True\)"),
    "Keras' form of a GRU for an LSTM": (partial(convert.from_keras, reset_after=True), gj.lstm(), convert.to_keras(gj.lstm(), random_params(gj.lstm())), ValueError, r"reset_after: got True for lstm\(.*\), expected None: only a GRU"),
    "a projection in Keras": (convert.from_keras, PROJECTED, [], TypeError, "proj_size=2., which Keras cannot represent.*Its LSTM has no projection. Use gj.lstm"),
    "a projection in ONNX": (convert.from_onnx, PROJECTED, {}, TypeError, "proj_size=2., which ONNX cannot represent.*Its LSTM has no projection"),
    "PyTorch's names": (convert.from_pytorch, gj.gru(), {}, TypeError, r"gj\.lstm\(peephole=False, proj_size=…\)"),
    "a projection in PyTorch": (convert.from_pytorch, PROJECTED, convert.to_pytorch(PROJECTED, random_params(PROJECTED)) | {"weight_hr_l0": np.ones((2, H + 1))}, ValueError, r"\['weight_hr_l0'\]: got shape \(2, 6\), expected \(2, 5\) for input size 4 and hidden size 5, projected to 2"),
    "tanh in Haiku": (convert.from_haiku, gj.elman("tanh"), {}, TypeError, "which Haiku cannot represent"),
    "Elman in Equinox": (convert.from_equinox, gj.elman("tanh"), {}, TypeError, "which Equinox cannot represent"),
    "a factory": (convert.from_pytorch, gj.gru, {}, TypeError, "cell: got function.*Call the function"),
    "noise": (convert.from_pytorch, gj.zoneout(AFTER, 0.1), {}, TypeError, r"cell: got zoneout.*PyTorch cannot represent.*Its params are those of gj.gru\(reset_after=True\), without the noise: pass that cell"),
    "dropout": (convert.from_pytorch, gj.variational_dropout(AFTER, inputs=0.1), {}, TypeError, r"variational_dropout.*Its params are those of gj.gru\(reset_after=True\)"),
    "zoneout for evaluation": (convert.from_pytorch, gj.zoneout(AFTER, 0.1).deterministic(), {}, TypeError, r"zoneout.*Its params are those of gj.gru\(reset_after=True\)"),
    "a stack in linen": (convert.from_flax_linen, gj.stack([AFTER]), {}, TypeError, "expected a single cell: Flax linen keeps.*Convert them one by one"),
    "two directions in Haiku": (convert.from_haiku, gj.bidirectional(gj.gru()), {}, TypeError, "expected a single cell: Haiku"),
    "a stack in ONNX": (convert.from_onnx, gj.stack([AFTER]), {}, TypeError, "expected a single layer: each layer is an ONNX operator"),
    "residual": (convert.from_pytorch, gj.stack([AFTER] * 2, residual=True), {}, TypeError, "residual=True, expected residual=False: PyTorch has no such stack"),
    "a residual block": (convert.from_pytorch, gj.stack([AFTER] * 2, residual="block"), {}, TypeError, "residual='block', expected residual=False"),
    "sum": (convert.from_pytorch, gj.bidirectional(AFTER, merge="sum"), {}, TypeError, "got merge='sum', expected 'concat', which PyTorch supports"),
    "layers of different kinds": (convert.from_pytorch, gj.stack([gj.bidirectional(AFTER), AFTER]), {}, TypeError, "expected layers of one kind, as in a PyTorch module"),
    "layers in a direction": (convert.from_pytorch, gj.bidirectional(gj.stack([AFTER] * 2)), {}, TypeError, r"gj\.stack\(\[gj\.bidirectional\(cell\), …\]\)"),
    "unequal directions": (convert.from_keras, gj.bidirectional(AFTER, gj.lstm()), [], TypeError, "expected the same cell in both directions"),
    "a stack in a stack": (convert.from_keras, gj.stack([gj.stack([AFTER])]), [], TypeError, "got a stack inside a stack"),
    "not a mapping": (convert.from_pytorch, AFTER, [1], TypeError, r"state_dict: got list.*module\.state_dict\(\)"),
    "not a tree": (convert.from_flax_linen, AFTER, 3, TypeError, "tree: got int, expected a mapping"),
    "not tensors": (convert.from_onnx, AFTER, 3, TypeError, "tensors: got int, expected a mapping"),
    "not a list": (convert.from_keras, AFTER, {}, TypeError, r"weights: got dict.*layer\.get_weights\(\)"),
    "missing": (convert.from_pytorch, AFTER, torch_dict(bias_hh_l0=None), ValueError, "state_dict: missing 'bias_hh_l0'. Expected 'weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0'.$"),
    "unexpected": (convert.from_pytorch, AFTER, torch_dict(extra=np.ones(3)), ValueError, "unexpected 'extra'"),
    "a larger model": (convert.from_pytorch, AFTER, {f"rnn.{k}": v for k, v in torch_dict().items()}, ValueError, "The names begin with 'rnn.'. Pass it as prefix"),
    "two directions": (convert.from_pytorch, AFTER, convert.to_pytorch(BOTH, random_params(BOTH)), ValueError, r"unexpected 'bias_hh_l0_reverse'.*These are the names of 1 layer in both directions, and gru\(reset_after=True\) has 1 layer in one direction. They belong to gj\.bidirectional\(cell\)"),
    "one layer for two": (convert.from_pytorch, gj.stack([AFTER] * 2), torch_dict(), ValueError, r"missing 'weight_ih_l1'.*These are the names of 1 layer in one direction, and stack.* has 2 layers in one direction. They belong to a single cell\."),
    "two layers for one": (convert.from_pytorch, AFTER, convert.to_pytorch(gj.stack([AFTER] * 2), random_params(gj.stack([AFTER] * 2))), ValueError, r"names of 2 layers in one direction.*They belong to gj\.stack\(\[cell\] \* 2\)"),
    "a compiled module": (convert.from_pytorch, AFTER, {f"_orig_mod.{k}": v for k, v in torch_dict().items()}, ValueError, "The names begin with '_orig_mod.'. Pass it as prefix"),
    "old weight norm": (convert.from_pytorch, AFTER, torch_dict(weight_hh_l0=None, weight_hh_l0_g=np.ones((3 * H, 1)), weight_hh_l0_v=np.ones((3 * H, H))), ValueError, r"missing 'weight_hh_l0'.*'weight_hh_l0_g' is a part of a normed weight.*remove_weight_norm"),
    "weight norm": (convert.from_pytorch, AFTER, {f"parametrizations.{k}.original0" if "weight" in k else k: v for k, v in torch_dict().items()}, ValueError, r"'parametrizations.weight_ih_l0.original0' is a part of a normed weight.*remove_parametrizations"),
    "one direction": (convert.from_pytorch, BOTH, torch_dict(), ValueError, "missing 'weight_ih_l0_reverse'"),
    "two layers of a cell": (convert.from_pytorch, gj.stack([AFTER] * 2), convert.to_pytorch(AFTER, random_params(AFTER), cell_module=True), ValueError, "missing 'weight_ih_l0'"),
    "shape": (convert.from_pytorch, AFTER, torch_dict(weight_hh_l0=np.ones((3 * H, H + 1), np.float32)), ValueError, r"state_dict\['weight_hh_l0'\]: got shape \(15, 6\), expected \(18, 6\)"),
    "transposed": (convert.from_pytorch, gj.elman(), {k: v.T for k, v in torch_dict(gj.elman()).items()}, ValueError, r"state_dict\['weight_ih_l0'\]: got shape \(4, 5\), expected \(5, 5\)"),
    "an LSTM's": (convert.from_pytorch, AFTER, torch_dict(gj.lstm()), ValueError, "The shape fits an LSTM, which has 4 blocks of the hidden size where a GRU has 3"),
    "not a matrix": (convert.from_pytorch, AFTER, torch_dict(weight_hh_l0=np.ones(3, np.float32)), ValueError, r"\['weight_hh_l0'\]: got shape \(3,\), expected a matrix"),
    "integers": (convert.from_pytorch, AFTER, torch_dict(bias_ih_l0=np.ones(3 * H, int)), TypeError, r"\['bias_ih_l0'\]: got int64, expected floating-point"),
    "objects": (convert.from_pytorch, AFTER, torch_dict(bias_ih_l0=np.array([None] * 3 * H)), TypeError, r"\['bias_ih_l0'\]: got ndarray of dtype object, expected an array of numbers"),
    "not an array": (convert.from_pytorch, AFTER, torch_dict(bias_ih_l0="text"), TypeError, r"\['bias_ih_l0'\]: got <U4"),
    "dtypes": (convert.from_pytorch, AFTER, torch_dict(bias_ih_l0=np.ones(3 * H, np.float16)), TypeError, r"\['bias_ih_l0'\]: got float16, expected float32, the dtype of state_dict\['weight_ih_l0'\].*dtype=jnp\.float32"),
    "Keras' other GRU": (convert.from_keras, gj.gru(), convert.to_keras(AFTER, random_params(AFTER)), ValueError, r"weights\[2\] \(bias\): got shape \(2, 15\), two rows of biases as in GRU\(reset_after=True\).*Use gj\.gru\(reset_after=True\)"),
    "Keras' one GRU": (convert.from_keras, AFTER, convert.to_keras(gj.gru(), random_params(gj.gru())), ValueError, r"one row of biases as in GRU\(reset_after=False\).*Use gj\.gru\(\)"),
    "Keras' number": (convert.from_keras, AFTER, [np.ones(3)] * 4, ValueError, "weights: got 4 arrays, expected 3, or 2 without biases"),
    "linen's name": (convert.from_flax_linen, AFTER, {"params": {}}, ValueError, r"missing 'ir/kernel'.*variables\['params'\]\['cell'\]"),
    "linen's place": (convert.from_flax_linen, gj.elman(), {"i": {"kernel": np.ones((D, H)), "bias": np.ones(H)}, "h": {"kernel": np.ones((H, H + 1))}}, ValueError, r"tree\['h'\]\['kernel'\]: got shape \(5, 6\), expected \(5, 5\)"),
    "Haiku's module": (convert.from_haiku, gj.gru(), {"mine": {"w_i": 1}}, ValueError, "tree under 'gru': missing 'w_i'.*The tree has the modules 'mine'"),
    "ONNX' directions": (convert.from_onnx, gj.gru(), {"W": np.ones((3 * H, D)), "R": np.ones((3 * H, H))}, ValueError, r"tensors\['W'\]: got shape \(15, 4\), expected 1 on the first axis"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_raises(name, needs_x64):
    load, cell, given, error, message = BAD_INPUT[name]
    assert_raises(lambda: load(cell, given), error, message)


def test_params_that_the_library_cannot_represent_raise():
    params = random_params(AFTER, np.float32)
    lacking = params._replace(c_h=None)
    message = r"params\.c_h: got None, expected an array: PyTorch requires this parameter.*params\._replace\(c_h=jnp\.zeros\(\(5,\), jnp\.float32\)\)"
    assert_raises(lambda: convert.to_pytorch(AFTER, lacking), ValueError, message)
    convert.to_pytorch(AFTER, lacking._replace(c_h=jnp.zeros(5, jnp.float32)))
    message = r"params\.c_h: got an array, expected None: Flax NNX has no such parameter.*params\._replace\(c_h=None\)"
    assert_raises(lambda: convert.to_flax_nnx(AFTER, params), ValueError, message)
    for save, cell in ((convert.to_flax_linen, AFTER), (convert.to_haiku, gj.gru()), (convert.to_haiku, gj.elman("relu"))):
        bare = random_params(cell, bias=False)
        assert_raises(
            lambda save=save, cell=cell, bare=bare: save(cell, bare),
            ValueError,
            "got None, expected an array: .* requires this parameter",
        )
    assert_raises(
        lambda: convert.to_pytorch(AFTER, random_params(gj.gru())), TypeError, "params: got GRUParams, expected GRUResetAfter"
    )
    mixed = gj.bidirectional(gj.gru())
    half = random_params(mixed)._replace(backward=random_params(gj.gru(), bias=False))
    assert_raises(lambda: convert.to_onnx(mixed, half), ValueError, "params: got biases in some layers or directions")
    assert_raises(lambda: convert.to_keras(mixed, half), ValueError, "params: got biases in some layers or directions")
    both = gj.bidirectional(AFTER)
    half = random_params(both)._replace(backward=random_params(AFTER, bias=False))
    assert_raises(lambda: convert.to_pytorch(both, half), ValueError, "params: got biases in some layers or directions")
    two = gj.stack([AFTER] * 2)
    sizes = two.init(jax.random.key(0), D, (H, H + 1))
    assert_raises(
        lambda: convert.to_pytorch(two, sizes), ValueError, r"params: got layers with hidden sizes \[5, 6\], expected one size"
    )
    assert_raises(
        lambda: convert.to_pytorch(BOTH, random_params(BOTH), cell_module=True),
        ValueError,
        "cell_module: got True for bidirectional",
    )
    assert_raises(
        lambda: convert.to_pytorch(PROJECTED, random_params(PROJECTED), cell_module=True),
        ValueError,
        "cell_module: got True for lstm.*nn.LSTMCell has no projection",
    )
    assert_raises(
        lambda: convert.to_flax_nnx(gj.elman(), random_params(gj.elman()), optimized=True),
        ValueError,
        "optimized: got True for",
    )


def test_big_endian_arrays_convert_to_native_ones():
    params = random_params(AFTER, np.float32)
    arrays = {name: array.astype(">f4") for name, array in convert.to_pytorch(AFTER, params).items()}
    assert_same_bits(convert.from_pytorch(AFTER, arrays), params)


def test_an_integer_dtype_raises():
    arrays = convert.to_pytorch(AFTER, random_params(AFTER))
    assert_raises(lambda: convert.from_pytorch(AFTER, arrays, dtype=jnp.int32), TypeError, "dtype: got int32, expected float64")


def test_float64_raises_while_x64_is_disabled():
    arrays = convert.to_pytorch(AFTER, random_params(AFTER))
    with jax.enable_x64(False):
        assert_raises(
            lambda: convert.from_pytorch(AFTER, arrays),
            TypeError,
            "got float64, expected at most float32 while x64 is disabled.*dtype=jnp.float32",
        )
        assert convert.from_pytorch(AFTER, arrays, dtype=jnp.float32).W_z.dtype == jnp.float32


# ---- the tables


def every_table():
    for name, (library, *_) in LIBRARIES.items():
        for cell, table in library.tables.items():
            yield pytest.param(cell, table, id=f"{name} {cell.name}")
    yield pytest.param(gj.lstm(), NNX_OPTIMIZED_LSTM, id="nnx optimized")


def entries_of(table):
    return [entry for name in table.tensors for row in table.rows(name) for entry in row]


@pytest.mark.parametrize(("cell", "table"), list(every_table()))
def test_a_table_names_every_parameter_of_its_cell_and_each_entry_parses(cell, table):
    words = [word for expression in table.tensors.values() for word in expression.replace("/", " ").split()]
    entries = entries_of(table)
    assert len(entries) == len(words)
    present = {field for field, leaf in random_params(cell)._asdict().items() if leaf is not None}
    named = {entry.field for entry in entries}
    assert named == (present - {"c_h"} if "c_h" not in named else present)
    signs = {entry.field: {other.sign for other in entries if other.field == entry.field} for entry in entries}
    assert all(len(both) == 1 for both in signs.values())
    negated = {field for field, sign in signs.items() if sign == {-1}}
    assert negated in (set(), {"W_z", "U_z", "b_z"})
    assert type(random_params(cell)) is table.params_type


def test_every_built_in_cell_converts_to_some_library():
    def has(library, cell):
        try:
            return library.table_for(cell) is not None
        except TypeError:
            return False

    libraries = [library for library, *_ in LIBRARIES.values()]
    assert all(
        any(has(library, cell) for library in libraries) for cell in (CELLS | ACTIVATED | {"projected": PROJECTED}).values()
    )
    assert not any(has(library, replace(cell, output=jnp.negative)) for library in libraries for cell in CELLS.values())
