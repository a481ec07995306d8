"""`save_checkpoint` and `restore_checkpoint` keep any pytree as safely as the checkpoints of `fit`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from tests.problems import assert_raises
from tests.train.problem import KEY

PARAMS = {
    "a/b": jnp.arange(6.0).reshape(2, 3),
    "key": jax.random.key(7),
    "half": jnp.ones(2, jnp.bfloat16),
    "none": jnp.zeros((0, 2)),
}
STATE = (PARAMS, optax.adam(0.1).init({"a/b": PARAMS["a/b"]}), 3)


def steps_there(directory):
    return sorted(int(path.name.split("_")[1]) for path in directory.glob("step_*"))


def test_a_state_comes_back_with_its_bits_dtypes_keys_and_metadata(tmp_path):
    gj.train.save_checkpoint(tmp_path / "run", STATE, 12, metadata={"position": [1, None, "ü"]})
    found = gj.train.restore_checkpoint(str(tmp_path / "run"), like=STATE)
    assert (found.step, found.metadata) == (12, {"position": [1, None, "ü"]})
    assert jax.tree.structure(found.state) == jax.tree.structure(STATE)
    assert (jax.random.key_data(found.state[0]["key"]) == jax.random.key_data(PARAMS["key"])).all()
    for ours, theirs in zip(jax.tree.leaves(found.state), jax.tree.leaves(STATE), strict=True):
        if not jnp.issubdtype(jnp.result_type(ours), jax.dtypes.prng_key):
            assert ours.dtype == jnp.result_type(theirs)
            np.testing.assert_array_equal(ours, theirs)


def test_the_newest_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    for step in (1, 2, 3, 5, 8):
        gj.train.save_checkpoint(tmp_path, {"w": jnp.full(3, step)}, step, max_to_keep=3)
    assert steps_there(tmp_path) == [3, 5, 8]
    (newest,) = tmp_path.glob("step_000000000008*")
    (newest / "manifest.json").write_text("{}")
    with pytest.warns(UserWarning, match="step_000000000008.* is damaged and ignored"):
        found = gj.train.restore_checkpoint(tmp_path, like={"w": jnp.zeros(3, int)})
    assert (found.step, found.state["w"].tolist()) == (5, [5, 5, 5])
    gj.train.save_checkpoint(tmp_path, {"w": jnp.full(3, 8)}, 8, max_to_keep=3)
    assert gj.train.restore_checkpoint(tmp_path, like={"w": jnp.zeros(3, int)}).step == 8


def test_an_intact_checkpoint_of_a_later_step_is_not_deleted(tmp_path):
    state = {"w": jnp.zeros(3)}
    for step in (4, 8):
        gj.train.save_checkpoint(tmp_path, state, step)
    save = lambda step: lambda: gj.train.save_checkpoint(tmp_path, state, step)
    message = "step: got 6, but .* contains a checkpoint of step 8, which would be deleted.*restore_checkpoint"
    assert_raises(save(6), ValueError, message)
    assert steps_there(tmp_path) == [4, 8]
    (newest,) = tmp_path.glob("step_000000000008*")
    (newest / "manifest.json").write_text("{}")
    with pytest.warns(UserWarning, match="step_000000000008.* is damaged and ignored"):
        save(6)()
    assert steps_there(tmp_path) == [4, 6]


def test_bad_input_raises(tmp_path):
    assert gj.train.restore_checkpoint(tmp_path / "nothing", like=STATE) is None
    gj.train.save_checkpoint(tmp_path / "run", {"w": jnp.ones(3, jnp.float32)}, 4)
    restore = lambda name, like: lambda: gj.train.restore_checkpoint(tmp_path / name, like)
    other = (
        r"like: .*run contains another state, at step 4\. \['w'\]: float32\[3\] in the checkpoint, float32\[5\] expected\. Pass"
    )
    assert_raises(restore("run", {"w": jnp.ones(5, jnp.float32)}), ValueError, other)
    shrink = lambda params, batch, key: (params["w"].sum(), {})
    gj.train.fit(shrink, {"w": jnp.ones(3)}, optax.sgd(0.1), jnp.ones(2), key=KEY, steps=2, checkpoint_dir=tmp_path / "fit")
    assert_raises(
        restore("fit", {"w": jnp.ones(3)}), ValueError, "contains another state, at step 2. fit wrote it, to be resumed by fit"
    )
    into_fit = lambda step: lambda: gj.train.save_checkpoint(tmp_path / "fit", {"w": jnp.ones(3)}, step)
    for step in (1, 2, 3):
        assert_raises(into_fit(step), ValueError, "checkpoint_dir: .*fit contains a run of fit, .*Use another directory")
    assert steps_there(tmp_path / "fit") == [2]
    save = lambda state, step, **options: lambda: gj.train.save_checkpoint(tmp_path / "no", state, step, **options)
    assert_raises(save({"w": "x"}, 1), TypeError, r"state: got str at \['w'\], expected an array")
    assert_raises(save({"w": 1.0}, -1), ValueError, "step: got -1, expected at least 0")
    assert_raises(save({"w": 1.0}, 1.5), TypeError, r"step: got 1\.5 \(float\)")
    assert_raises(save({"w": 1.0}, 1, max_to_keep=1), ValueError, "max_to_keep: got 1, expected at least 2")
    assert_raises(save({"w": 1.0}, 1, metadata=KEY), TypeError, "metadata: got .*expected values that JSON can hold")
    assert not (tmp_path / "no").exists()
