"""Runs resume bit for bit, a different run raises, and damaged checkpoints are detected."""

import json
import shutil
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from tests.problems import assert_raises
from tests.train.problem import KEY, OPTIMIZER, SETTINGS, data, digests, fit, init, init_readout, loss_fn, readout_loss_fn

run = partial(fit, **SETTINGS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The digests of an uninterrupted run of 20 steps."""
    return digests(run(steps=20, checkpoint_dir=tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A directory with checkpoints of 5 and 10 steps."""
    directory = tmp_path_factory.mktemp("half")
    run(steps=10, checkpoint_dir=directory)
    return directory


@pytest.fixture
def directory(half, tmp_path):
    return shutil.copytree(half, tmp_path / "run")


def steps_there(directory):
    return sorted(int(path.name[5:17]) for path in directory.glob("step_*"))


def checkpoint_of(directory, step):
    (path,) = directory.glob(f"step_{step:012d}_*")
    return path


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(directory, whole):
    assert steps_there(directory) == [5, 10]
    assert digests(run(steps=20, checkpoint_dir=directory)) == whole
    assert steps_there(directory) == [15, 20]
    again = run(steps=20, checkpoint_dir=directory)  # nothing left to do
    assert digests(again) == whole
    assert digests(fit(steps=20, **(SETTINGS | {"save_every": None})))["params"] == whole["params"]


def test_the_initial_parameters_are_not_saved(tmp_path):
    run(steps=10, checkpoint_dir=tmp_path, max_to_keep=9)
    assert steps_there(tmp_path) == [5, 10]


@pytest.mark.slow
def test_a_run_may_resume_with_other_steps_per_execution(directory, whole):
    longer = run(steps=20, checkpoint_dir=directory, steps_per_execution=7)
    assert digests(longer)["steps"] == 20
    for ours, theirs in zip(jax.tree.leaves(longer.params), jax.tree.leaves(fit(steps=20).params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_history_file_can_be_read_while_training_and_continues_after_a_resume(directory, whole):
    seen = []

    def callback(info):
        lines = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        seen.append(len(losses))
        assert losses[-1] == float(info.metrics["loss"][-1])

    # a crash leaves steps after the checkpoint, and half a line
    with open(directory / "history.jsonl", "a") as file:
        file.write('{"step": 10, "loss": 99.0, "root": 9.0}\n{"step": 11, "lo')
    fitted = run(steps=20, checkpoint_dir=directory, callbacks=[callback])
    assert seen == [15, 20]
    assert digests(fitted) == whole
    lines = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(20))
    assert [line["step"] for line in lines if "evaluation" in line] == [0, 10, 20]


def test_a_lost_history_file_leaves_nan_and_training_continues(directory, whole):
    (directory / "history.jsonl").unlink()
    with pytest.warns(UserWarning, match="NaN in the history: 0 to 9; the evaluation after step 10 is lost"):
        fitted = run(steps=20, checkpoint_dir=directory)
    assert digests(fitted)["params"] == whole["params"]
    assert np.isnan(fitted.history["loss"][:10]).all()
    assert np.isfinite(fitted.history["loss"][10:]).all()


def test_without_orbax_checkpoints_raise_instead_of_counting_as_damaged(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    message = r'checkpoints need Orbax.*pip install "gru_jax\[train\]"'
    assert_raises(lambda: run(steps=20, checkpoint_dir=directory), ImportError, message)
    assert_raises(lambda: gj.train.load_params(directory, init()), ImportError, message)
    assert not fit(steps=1).stop_reason


def test_integer_metrics_stay_integers_after_a_resume(tmp_path):
    counting = lambda params, batch, key: ((params * batch).mean(), {"count": (batch > 0).sum()})
    run = partial(gj.train.fit, counting, jnp.ones(()), optax.sgd(0.1), jnp.arange(-2.0, 4.0), key=KEY, checkpoint_dir=tmp_path)
    run(steps=2)
    assert run(steps=4).history["count"].tolist() == [3, 3, 3, 3]
    assert np.issubdtype(run(steps=4).history["count"].dtype, np.integer)
    (tmp_path / "history.jsonl").unlink()
    with pytest.warns(UserWarning, match="NaN in the history: 0 to 3"):
        assert np.isnan(run(steps=5).history["count"][:4]).all()


def test_load_params_loads_the_last_and_the_best_parameters(directory):
    fitted = run(steps=10, checkpoint_dir=directory)
    for best, expected in ((False, fitted.params), (True, fitted.best_params)):
        found = gj.train.load_params(directory, init(), best=best)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert_raises(
        lambda: gj.train.load_params(directory, init(hidden=9)),
        ValueError,
        r"\.cell\.W_z: float32\[2, 7\] saved, float32\[2, 9\] expected",
    )
    assert_raises(
        lambda: gj.train.load_params(directory, init(), best="yes"), TypeError, "best: got 'yes' .*expected True or False"
    )
    with pytest.raises(FileNotFoundError, match="nowhere, which does not exist"):
        gj.train.load_params(directory / "nowhere", init())


def test_load_params_tells_the_best_from_the_last(tmp_path):
    """The parameter counts the steps, and is best at 1."""
    gj.train.fit(
        lambda params, batch, key: (-params, {}),
        jnp.float32(0),
        optax.sgd(1.0),
        jnp.ones(2),
        key=KEY,
        steps=3,
        evaluate=lambda params: {"distance": jnp.abs(params - 1)},
        evaluate_every=1,
        early_stopping=gj.train.EarlyStopping("distance"),
        checkpoint_dir=tmp_path,
    )
    assert gj.train.load_params(tmp_path, jnp.float32(0)) == 3
    assert gj.train.load_params(tmp_path, jnp.float32(0), best=True) == 1


def test_an_optimiser_with_random_keys_resumes_bit_for_bit(tmp_path):
    optimizer = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(4)), optax.sgd(1e-2))
    noisy = partial(gj.train.fit, readout_loss_fn, init_readout(), optimizer, data(), key=KEY, steps_per_execution=5)
    whole = noisy(steps=8)
    noisy(steps=4, checkpoint_dir=tmp_path)
    assert digests(noisy(steps=8, checkpoint_dir=tmp_path))["params"] == digests(whole)["params"]


def other(**change):
    given = {"loss_fn": loss_fn, "params": init(), "optimizer": OPTIMIZER, "data": data(), "key": KEY, "batch_size": 6} | change
    return lambda directory: gj.train.fit(
        given.pop("loss_fn"),
        given.pop("params"),
        given.pop("optimizer"),
        given.pop("data"),
        checkpoint_dir=directory,
        steps=20,
        **(SETTINGS | given),
    )


def optimizer(rate):
    """Returns the optimiser of the problem with another learning rate."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, 1000)))


def other_loss_fn(params, batch, key):
    return loss_fn(params, batch, key)


REFUSED = {
    "batch size": (other(batch_size=5), r"another configuration, at step 10. batch_size: 6 in the checkpoint, 5 in this call"),
    "key": (other(key=jax.random.key(3)), r"key: \[0, 0\] in the checkpoint, \[0, 3\] in this call"),
    "data": (other(data=data(7)), r"data: 'sha256:\w{64}' in the checkpoint, 'sha256:\w{64}' in this call"),
    "rate": (other(optimizer=optimizer(2e-2)), r"optimizer: update\.update_fns\[1\]\S+init_value was 0\.01 and is 0\.02\. .*To continue with the change on purpose, pass allow_changes=\['optimizer'\]"),
    "loss": (other(loss_fn=other_loss_fn), r"loss_fn: the function was 'loss_fn' and is 'other_loss_fn', the code of the function has changed.*allow_changes=\['loss_fn'\]"),
    "average": (other(weight_fn=lambda batch: 1.0), r"weight_fn: the function was None and is"),
    "two changes": (other(optimizer=optimizer(2e-2), config=3), r"config: None in the checkpoint, 3 in this call; optimizer: .*allow_changes=\['config', 'optimizer'\]"),
    "config": (other(config={"a": 1}), r"config: None in the checkpoint, {'a': 1} in this call"),
    "microbatches": (other(grad_accumulation_steps=2), "grad_accumulation_steps: 1 in the checkpoint, 2 in this call"),
    "hidden size": (other(params=init(hidden=9)), r"other arrays, at step 10. \.model\.params\.cell\.W_z: float32\[2, 7\] in the checkpoint, float32\[2, 9\] expected"),
    "optimiser": (other(optimizer=optax.sgd(0.1), allow_changes=["optimizer"]), r"other arrays.*\.model\.opt_state\[1\]\[0\].count: int32\[\] in the checkpoint, nothing expected"),
    "half precision": (other(params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), init())), r"float32\[2, 7\] in the checkpoint, bfloat16\[2, 7\] expected"),
    "no early stopping": (other(early_stopping=None), r"\.best_params\.cell\.W_z: float32\[2, 7\] in the checkpoint, nothing expected"),
    "no resume": (other(resume=False), "contains a run at step 10. Pass resume=True"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_different_run_is_refused_with_the_differences_and_nothing_is_deleted(name, half):
    train, message = REFUSED[name]
    before = sorted(path.name for path in half.rglob("*"))
    assert_raises(lambda: train(half), ValueError, message)
    assert sorted(path.name for path in half.rglob("*") if path.name != ".lock") == [name for name in before if name != ".lock"]


def test_a_change_on_purpose_is_allowed_and_recorded(directory):
    before = gj.train.load_params(directory, init())
    found = other(optimizer=optimizer(0.0), allow_changes=["optimizer"])(directory)
    np.testing.assert_array_equal(found.params.readout.V, before.readout.V)
    lines = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
    ((step, changes),) = [(line["step"], line["changes"]) for line in lines if "changes" in line]
    assert step == 10
    assert changes.keys() == {"optimizer"}
    assert changes["optimizer"].endswith("init_value was 0.01 and is 0.0")
    resumed = other(optimizer=optimizer(0.0))(directory)  # the new rate is now that of the run
    assert digests(resumed)["steps"] == 20
    assert len(resumed.history["loss"]) == 20
    assert np.isfinite(resumed.history["loss"]).all()


def test_other_initial_parameters_warn_and_the_run_goes_on_from_its_checkpoint(directory, whole):
    with pytest.warns(
        UserWarning, match="params: got other initial parameters than the run in .* from its checkpoint of step 10"
    ):
        resumed = other(params=init(seed=3), steps_per_execution=5)(directory)
    assert digests(resumed) == whole


def test_names_of_changes_are_checked(tmp_path):
    run = lambda names: lambda: fit(steps=1, checkpoint_dir=tmp_path, allow_changes=names)
    assert_raises(
        run("optimizer"), TypeError, r'allow_changes: got \'optimizer\', expected a list of names, for example \["optimizer"\]'
    )
    assert_raises(run(["rate"]), ValueError, r"allow_changes: got 'rate', expected names among config, data, key, .*optimizer")
    assert_raises(lambda: fit(steps=1, allow_changes=["data"]), ValueError, "allow_changes: got .* without checkpoint_dir")


def test_a_config_must_be_json_and_only_one_process_may_use_a_directory(directory):
    assert_raises(
        lambda: run(steps=12, checkpoint_dir=directory, config={"a": jnp}),
        TypeError,
        "config: got .*expected values that JSON can hold",
    )
    messages = []

    def inside(info):
        try:
            run(steps=11, checkpoint_dir=directory)
        except RuntimeError as error:
            messages.append(str(error))

    run(steps=15, checkpoint_dir=directory, callbacks=[inside])
    assert "another process is training in" in messages[0]


DAMAGE = {
    "one bit flipped": lambda content, at: content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :],
    "truncated": lambda content, at: content[:at],
    "emptied": lambda content, at: b"",
    "extended": lambda content, at: content + b"\0",
}


def files_of(directory, step):
    return sorted(path for path in checkpoint_of(directory, step).rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "damage", [pytest.param(damage, marks=() if damage == "one bit flipped" else pytest.mark.slow) for damage in DAMAGE]
)
def test_damage_to_any_file_is_detected_and_the_previous_checkpoint_is_used(damage, directory):
    """Damages every ninth file of the newest checkpoint in turn, and its manifest."""
    from gru_jax.train import checkpoint

    rng = np.random.default_rng(0)
    files = files_of(directory, 10)
    assert files[-1].name == "manifest.json"
    for path in files[list(DAMAGE).index(damage) :: 9] + files[-1:]:
        content = path.read_bytes()
        for at in {0, int(rng.integers(max(len(content), 1)))} if damage in ("one bit flipped", "truncated") else {0}:
            if damage in ("one bit flipped", "truncated") and not content:
                continue
            path.write_bytes(DAMAGE[damage](content, at))
            with pytest.warns(UserWarning, match=r"step_000000000010_\w{8} is damaged and ignored.*before it is used"):
                assert checkpoint.load_latest(directory).step == 5
        path.write_bytes(content)
    assert checkpoint.load_latest(directory).step == 10
    extra = checkpoint_of(directory, 10) / "arrays" / "surplus"
    extra.write_text("x")
    with pytest.warns(UserWarning, match="these files have changed since it was written: .*surplus"):
        assert checkpoint.load_latest(directory).step == 5
    extra.unlink()
    files_of(directory, 10)[0].unlink()
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoint.load_latest(directory).step == 5


def test_after_damage_the_run_resumes_from_the_previous_checkpoint_with_the_same_result(directory, whole):
    (checkpoint_of(directory, 10) / "manifest.json").write_text("{}")
    with pytest.warns(UserWarning, match="damaged"):
        assert digests(run(steps=20, checkpoint_dir=directory)) == whole
    assert steps_there(directory) == [15, 20]


def test_what_a_callback_writes_into_the_directory_is_kept_and_does_not_count_as_a_checkpoint(tmp_path):
    def draw_samples(info):
        for name in (f"step_{info.step}", f"step_{info.step + 100:012d}", f".tmp_{info.step}"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "sample.txt").write_text("la la la")

    fitted = run(steps=20, checkpoint_dir=tmp_path, callbacks=[draw_samples])
    assert len(list(tmp_path.rglob("sample.txt"))) == 12
    assert sorted(path.name[:17] for path in tmp_path.glob("step_*_*")) == ["step_000000000015", "step_000000000020"]
    jax.tree.map(np.testing.assert_array_equal, gj.train.load_params(tmp_path, init()), fitted.params)


def test_a_link_in_the_place_of_the_lock_is_refused_and_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    assert_raises(
        lambda: run(steps=5, checkpoint_dir=tmp_path / "run"), ValueError, r"checkpoint_dir: .*\.lock is a symbolic link"
    )
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_run_none_of_whose_checkpoints_is_intact_is_not_started_again(directory):
    for path in directory.glob("step_*"):
        (path / "manifest.json").write_text("{")
    before = sorted(directory.rglob("*"))
    for load in (lambda: run(steps=20, checkpoint_dir=directory), lambda: gj.train.load_params(directory, init())):
        assert_raises(
            load, ValueError, r"2 checkpoints, and none is intact. step_\d{12}_\w{8}: .*use another directory, or move"
        )
    assert sorted(directory.rglob("*")) == before
