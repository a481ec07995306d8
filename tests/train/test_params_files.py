"""Parameters alone: saved to safetensors files, loaded from them and from runs."""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from tests.problems import assert_close, assert_raises
from tests.train.problem import KEY, init


class Pair(NamedTuple):
    a: jax.Array
    b: dict


PARAMS = {
    "cell": gj.gru().init(KEY, 3, 4),
    "odd name / ü": [jnp.arange(3), Pair(jnp.ones((2, 0), jnp.bfloat16), {7: jnp.array(True)})],
    "key": jax.random.key(5),
    "scale": jnp.array(2.5, jnp.float16),
    "complex": jnp.array([1 + 2j], jnp.complex64),
    "constant": 3.0,
}


def test_a_file_holds_every_array_under_its_path_and_gives_the_same_bits_back(tmp_path):
    path = tmp_path / "model.safetensors"
    gj.train.save_params(path, PARAMS)
    names = set(gj.convert.load_safetensors(path))
    letters = {f"cell.{letter}_{gate}" for letter in "WUb" for gate in "zrh"}
    odd = {"odd name / ü.0", "odd name / ü.1.a", "odd name / ü.1.b.7"}
    assert names == letters | odd | {"key", "scale", "complex", "constant"}
    found = gj.train.load_params(str(path), like=jax.tree.map(lambda leaf: leaf, PARAMS))
    assert jax.tree.structure(found) == jax.tree.structure(PARAMS)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, PARAMS)), strict=True):
        if jnp.issubdtype(jnp.result_type(theirs) if isinstance(theirs, float) else theirs.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        assert ours.dtype == jnp.result_type(theirs)
        np.testing.assert_array_equal(ours, theirs)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_array_alone_is_named_params(tmp_path):
    gj.train.save_params(tmp_path / "w", jnp.arange(3.0))
    assert list(gj.convert.load_safetensors(tmp_path / "w")) == ["params"]
    assert_close(gj.train.load_params(tmp_path / "w", jnp.zeros(3)), jnp.arange(3.0), tol=0)


def test_load_params_tells_the_average_from_the_last(tmp_path):
    drift = lambda params, batch, key: (-params, {})  # the parameter counts the steps
    run = lambda directory, **options: gj.train.fit(
        drift, jnp.float32(0), optax.sgd(1.0), jnp.ones(2), key=KEY, steps=3, checkpoint_dir=directory, **options
    )
    run(tmp_path, ema=0.5)
    assert gj.train.load_params(tmp_path, jnp.float32(0)) == 3
    np.testing.assert_allclose(gj.train.load_params(tmp_path, jnp.float32(0), ema=True), (0.25 + 2 * 0.5 + 3) / 1.75)
    run(tmp_path / "plain")
    load = lambda path, **options: lambda: gj.train.load_params(tmp_path / path, jnp.float32(0), **options)
    assert_raises(load("plain", ema=True), ValueError, r"ema: got True for .*plain, a run without ema, expected False")
    assert_raises(load("plain", best=True), ValueError, r"best: got True for .*plain, a run without early_stopping")
    assert_raises(load("", best=True, ema=True), ValueError, r"best: got True together with ema, expected one of them")


def test_bad_input_raises(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    gj.train.save_params(path, init())
    load = lambda path, like, **options: lambda: gj.train.load_params(path, like, **options)
    save = lambda params: lambda: gj.train.save_params(tmp_path / "other", params)
    other = r"like: .*model.safetensors holds other arrays\. .*\.cell\.W_z: float32\[2, 7\] saved, float32\[2, 9\] expected"
    assert_raises(load(path, init(hidden=9)), ValueError, other)
    nested = r"\.?cell\.W_z: float32\[2, 7\] saved, nothing expected; .*; …\. Pass parameters of the model"
    assert_raises(load(path, {"net": init()}), ValueError, nested)
    assert_raises(load(path, init(), best=True), ValueError, r"best: got True for the file .*holds one set")
    assert_raises(load(path, init(), ema=1), TypeError, r"ema: got 1 \(int\), expected True or False")
    assert_raises(
        load(tmp_path / "no", init()),
        FileNotFoundError,
        r"path: got .*no, which does not exist, expected a file of save_params",
    )
    assert_raises(
        load(tmp_path, init()), FileNotFoundError, r"contains no valid checkpoint, expected a directory that was passed to fit"
    )
    path.write_bytes(path.read_bytes()[:-1])
    assert_raises(load(path, init()), ValueError, r"path: got .*expected a complete safetensors file")
    assert_raises(save({"a.b": jnp.ones(1), "a": {"b": jnp.ones(2)}}), ValueError, r"params: got two arrays with the path a\.b")
    assert_raises(save({"a": ["b"]}), TypeError, r"params: got str at a\.0, expected an array")
    assert_raises(
        save({"a": np.ones(2, np.complex128)}), TypeError, r"params: got complex128 at a, expected one of bool, .*complex64"
    )
    assert_raises(save({}), ValueError, r"params: got dict without arrays")
    assert_raises(lambda: gj.train.save_params(tmp_path / "no" / "m", init()), OSError, "no")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    install = r'safetensors is not installed.*pip install "gru_jax\[train\]"'
    assert_raises(save(init()), ImportError, install)
    assert_raises(load(path, init()), ImportError, install)
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "bfloat16", "float16", "float64", "complex64"])
def test_every_dtype_of_the_format_comes_back(tmp_path, dtype, needs_x64):
    params = {"x": jnp.arange(6).reshape(2, 3).astype(dtype).T}
    gj.train.save_params(tmp_path / "m", params)
    found = gj.train.load_params(tmp_path / "m", params)["x"]
    assert found.dtype == params["x"].dtype
    np.testing.assert_array_equal(found, params["x"])
