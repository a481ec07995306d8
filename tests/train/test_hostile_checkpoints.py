"""What a checkpoint says is compared with its manifest before the array store opens a file.

The hostile checkpoints have valid digests: their author signed them again.
"""

import hashlib
import json
import os
import re
import shutil
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from gru_jax.train import checkpoint
from gru_jax.train.checkpoint import Checkpoint
from tests.problems import assert_raises

ID = "0123abcd"


def save(directory, step, run_id=ID):
    arrays = {"W": np.full((3, 4), step, np.float32), "nothing": np.zeros((0, 2)), ".model.params": np.arange(5, dtype=np.int8)}
    checkpoint.save(directory, Checkpoint(step, arrays, {"at": step}, run_id), max_to_keep=2)
    return directory / f"step_{step:012d}_{run_id}"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with checkpoints of 1 and 2 steps."""
    directory = tmp_path_factory.mktemp("saved")
    save(directory, 1)
    save(directory, 2)
    return directory


@pytest.fixture
def path(saved, tmp_path):
    """The newest checkpoint in a copy of the directory."""
    return shutil.copytree(saved, tmp_path / "run") / f"step_{2:012d}_{ID}"


def sign(path, **changes):
    """Writes a manifest with valid digests, after the files were changed."""
    content = json.loads((path / "manifest.json").read_text())
    files = [file for file in (path / "arrays").rglob("*") if file.is_file()]
    of_file = lambda file: [
        file.stat().st_size,
        hashlib.sha256(file.read_bytes()).hexdigest() if file.stat().st_size < 1e6 else "",
    ]
    content |= {"files": {str(file.relative_to(path)): of_file(file) for file in files}} | changes
    content.pop("digest", None)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(content | {"digest": digest}, sort_keys=True))


def rewrite(path, name, **changes):
    """Changes a JSON file, and signs the checkpoint."""
    file = path / "arrays" / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    sign(path)


def replace(path, make):
    """Replaces a file by something else."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make(path)


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a tebibyte


def set_arrays(path, *arrays):
    sign(path, arrays=list(arrays))


def tree_metadata(path, **changes):
    text = json.loads((path / "arrays" / "_METADATA").read_text())
    entries = {
        name: entry | {"value_metadata": entry["value_metadata"] | changes} for name, entry in text["tree_metadata"].items()
    }
    rewrite(path, "_METADATA", tree_metadata=entries)


def swap_directory(path):
    os.rename(path, path.parent / "elsewhere")
    path.symlink_to(path.parent / "elsewhere")


W, NOTHING, PARAMS = ["W", [3, 4], "float32"], ["nothing", [0, 2], "float64"], [".model.params", [5], "int8"]
HOSTILE = {
    "a link in the place of the checkpoint": (swap_directory, "it is no directory"),
    "a file in its place": (lambda path: replace(path, lambda path: path.write_text("")), "it is no directory"),
    "a link in the place of the arrays": (lambda path: swap_directory(path / "arrays"), "arrays is a symbolic link"),
    "a link in the place of an array": (lambda path: replace(path / "arrays/0/0.0", lambda file: file.symlink_to("/dev/zero")), "arrays/0/0.0 is no regular file"),
    "a link to an equal file": (lambda path: (shutil.copy(path / "arrays/0/0.0", path.parent / "W"), replace(path / "arrays/0/0.0", lambda file: file.symlink_to(path.parent / "W"))), "arrays/0/0.0 is no regular file"),
    "a pipe": (lambda path: replace(path / "arrays/0/0.0", os.mkfifo), "arrays/0/0.0 is no regular file"),
    "a directory of files": (lambda path: (path / "arrays/0/more").mkdir() or (path / "arrays/0/more/0.0").write_text("x"), "have changed since it was written: arrays/0/more/0.0"),
    "a sparse giant": (lambda path: sparse(path / "arrays/0/0.0"), "have changed since it was written: arrays/0/0.0"),
    "a signed sparse giant": (lambda path: (sparse(path / "arrays/0/0.0"), sign(path)), "arrays/0/0.0 has 1099511627776 bytes, expected 48"),
    "signed giant metadata": (lambda path: (sparse(path / "arrays/_METADATA"), sign(path)), "arrays/_METADATA has 1099511627776 bytes, more than its content needs"),
    "signed giant metadata of an array": (lambda path: (sparse(path / "arrays/0/.zarray"), sign(path)), "arrays/0/.zarray has 1099511627776 bytes, more"),
    "an additional array": (lambda path: (shutil.copytree(path / "arrays/0", path / "arrays/9"), sign(path)), "belong to no array: 9/.zarray, 9/0.0"),
    "a shape of a terabyte": (lambda path: rewrite(path, "0/.zarray", shape=[1 << 20, 1 << 18], chunks=[1 << 20, 1 << 18]), "arrays/0/.zarray does not describe W, float32[3, 4]"),
    "chunks of a terabyte": (lambda path: rewrite(path, "0/.zarray", chunks=[1 << 20, 1 << 18]), "does not describe W"),
    "chunks of no element": (lambda path: rewrite(path, "0/.zarray", chunks=[0, 0]), "does not describe W"),
    "another type": (lambda path: rewrite(path, "0/.zarray", dtype="<f8"), "does not describe W"),
    "elements of a gigabyte": (lambda path: rewrite(path, "0/.zarray", dtype="|V1000000000"), "does not describe W"),
    "another order": (lambda path: rewrite(path, "0/.zarray", order="F"), "does not describe W"),
    "compression": (lambda path: rewrite(path, "0/.zarray", compressor={"id": "zstd", "level": 1}), "does not describe W"),
    "metadata of a list": (lambda path: ((path / "arrays/0/.zarray").write_text("[]"), sign(path)), "list indices"),
    "a nested bomb": (lambda path: ((path / "arrays/0/.zarray").write_text("[" * 4000), sign(path)), "recursion|Expecting value"),
    "another store": (lambda path: rewrite(path, "_METADATA", use_ocdbt=True), "_METADATA does not describe"),
    "other names": (lambda path: rewrite(path, "_METADATA", tree_metadata={}), "_METADATA does not describe"),
    "another kind of value": (lambda path: tree_metadata(path, value_type="jax.Array"), "_METADATA does not describe"),
    "a path outside": (lambda path: sign(path, files={"arrays/../../../secret": [0, ""]}), "have changed since it was written: arrays/"),
    "sizes that are text": (lambda path: sign(path, files={"arrays/0/0.0": ["48", ""]}), "the manifest holds 48"),
    "files that are a list": (lambda path: sign(path, files=["arrays/0/0.0"]), "the manifest is not that of a checkpoint"),
    "another step": (lambda path: sign(path, step=9), "the manifest is that of step 9"),
    "a negative step": (lambda path: sign(path, step=-2), "the manifest holds -2"),
    "another format": (lambda path: sign(path, format=2), "its format version is 2, expected 3"),
    "an array twice": (lambda path: set_arrays(path, W, W, NOTHING), "names an array twice"),
    "an array of a terabyte": (lambda path: set_arrays(path, ["W", [1 << 38], "float32"], NOTHING, PARAMS), "arrays/0/0 has None bytes, expected 1099511627776"),
    "an array of 2**200 elements": (lambda path: set_arrays(path, ["W", [1 << 50] * 4, "float32"], NOTHING, PARAMS), "arrays/0/0.0.0.0 has None bytes"),
    "an array of subarrays": (lambda path: set_arrays(path, ["W", [3, 4], "(1000000,)f4"], NOTHING, PARAMS), "the manifest lists 'W' as"),
    "an array of objects": (lambda path: set_arrays(path, ["W", [3, 4], "object"], NOTHING, PARAMS), "of 48|has 48 bytes"),
    "an array without a type": (lambda path: set_arrays(path, ["W", [3, 4], "no"], NOTHING, PARAMS), "not that of a checkpoint"),
    "a hundred axes": (lambda path: set_arrays(path, ["W", [1] * 100, "float32"], NOTHING, PARAMS), "the manifest lists 'W' as"),
    "a fraction of an element": (lambda path: set_arrays(path, ["W", [3.5, 4], "float32"], NOTHING, PARAMS), "the manifest holds 3.5"),
    "a name of a megabyte": (lambda path: set_arrays(path, ["W" * 1_000_000, [3, 4], "(2,)f4"], NOTHING, PARAMS), "the manifest lists 'WWW"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "No such file"),
    "a manifest that is a link": (lambda path: (shutil.copy(path / "manifest.json", path.parent / "copy"), replace(path / "manifest.json", lambda file: file.symlink_to(path.parent / "copy"))), "is a symbolic link"),
    "a manifest that is a pipe": (lambda path: replace(path / "manifest.json", os.mkfifo), "is a pipe"),
    "a manifest that is a directory": (lambda path: replace(path / "manifest.json", lambda file: file.mkdir()), "is a directory"),
    "a manifest that is a sparse giant": (lambda path: sparse(path / "manifest.json"), "."),
    "a manifest that is a nested bomb": (lambda path: (path / "manifest.json").write_text("[" * 100_000), "."),
    "a manifest that is a list": (lambda path: (path / "manifest.json").write_text("[]"), "the manifest has changed"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_is_noticed_before_the_store_opens_a_file(name, path, monkeypatch):
    attack, reason = HOSTILE[name]
    attack(path)
    opened, original = [], checkpoint.read_arrays
    monkeypatch.setattr(checkpoint, "read_arrays", lambda path, *args: opened.append(path.parent) or original(path, *args))
    with pytest.warns(UserWarning, match=rf"_{ID} is damaged and ignored: ") as caught:
        found = checkpoint.load_latest(path.parent)
    (message,) = (str(warning.message) for warning in caught)
    assert found.step == 1
    assert (found.arrays["W"] == 1).all()
    assert [directory.name for directory in opened] == [f"step_{1:012d}_{ID}"]
    assert re.search(reason.replace("[", r"\["), message)
    assert len(message) < 300 + 2 * len(str(path))


def test_only_wanted_arrays_are_read_and_the_caller_is_asked_before(path):
    found = checkpoint.load_latest(path.parent, wanted=lambda name: name == "nothing")
    assert list(found.arrays) == ["nothing"]
    assert found.arrays["nothing"].shape == (0, 2)
    found = gj.train.load_params(path.parent, jnp.zeros(5, jnp.int8))
    np.testing.assert_array_equal(found, np.arange(5))
    sparse(path / "arrays/2/0")
    rewrite(path, "2/.zarray", shape=[1 << 40], chunks=[1 << 40])
    set_arrays(path, W, NOTHING, [".model.params", [1 << 40], "int8"])  # consistent, and a tebibyte
    message = r"like: .* holds other arrays. : int8\[1099511627776\] saved, int8\[5\] expected"
    assert_raises(lambda: gj.train.load_params(path.parent, jnp.zeros(5, jnp.int8)), ValueError, message)


def test_pruning_deletes_only_what_the_run_wrote_and_follows_no_link(tmp_path):
    other = save(tmp_path, 1, "deadbeef")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    links = [tmp_path / f"step_{0:012d}_{ID}", tmp_path / f".tmp_step_{7:012d}_{ID}", tmp_path / f".tmp_old_step_{3:012d}_{ID}"]
    for link in links:
        link.symlink_to(precious)
    users = [
        tmp_path / name
        for name in ("step_2", f"step_{3:012d}", ".tmp_mine", f"step_{3:012d}_{ID}.txt", f".tmp_step_{5:012d}_deadbeef")
    ]
    for directory in users:
        directory.mkdir()
        (directory / "file").write_text("precious")
    pipe = tmp_path / f"step_{4:012d}_{ID}"  # rmtree would open it, and wait
    os.mkfifo(pipe)
    leftover = tmp_path / f".tmp_step_{9:012d}_{ID}"
    leftover.mkdir()
    for step in range(2, 6):
        save(tmp_path, step)
    mine = [tmp_path / f"step_{step:012d}_{ID}" for step in (4, 5)]
    assert sorted(tmp_path.iterdir()) == sorted(
        [other, precious, *links, *users, *mine, pipe.with_name(f".tmp_old_{pipe.name}")]
    )
    assert all((directory / "file").read_text() == "precious" for directory in (precious, *users))


def test_damaged_checkpoints_of_steps_that_are_taken_again_displace_no_valid_ones(tmp_path):
    for step in (10, 20):
        (save(tmp_path, step) / "manifest.json").write_text("") if step == 20 else save(tmp_path, step)
    for step in (12, 14):
        save(tmp_path, step)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert checkpoint.load_latest(tmp_path).step == step
    assert len(checkpoint.checkpoint_paths(tmp_path)) == 2


def test_what_crashes_left_before_the_first_checkpoint_is_deleted(tmp_path):
    leftovers = [tmp_path / f".tmp_step_{5:012d}_{ID}", tmp_path / ".tmp_mine"]
    for directory in leftovers:
        directory.mkdir()
    checkpoint.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == leftovers[1:]
