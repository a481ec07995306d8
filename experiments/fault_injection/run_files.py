"""Damaged and hostile files in the directory of a run.

Each trial copies the directory of a run that has ended, changes it, and calls `fit` as before. `fit`
then either raises, or returns the result of the run: from the newest checkpoint, or by training
again from the one before.
"""

import atexit
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.fault_injection.problem import SAVE_EVERY, parts, train
from experiments.fault_injection.trials import NOTICED, UNCHANGED, WRONG, Ended, Trial, outcome_of_error

STEPS, HISTORY, SIGNED = 20, "history.jsonl", "a checkpoint signed again"
_LONGEST_MESSAGE = 1000
Fault = Callable[[Path, np.random.Generator], None]  # changes the directory of a run


class Base(NamedTuple):
    """A run that has ended, and everything that it returned."""

    directory: Path
    parts: dict[str, list[np.ndarray]]


def trials(seed: int, quick: bool) -> list[Trial]:
    """Returns the trials, in a random order, so that a short run has some of each kind."""
    found = []
    for number, (group, name, fault) in enumerate(_faults()):
        trial = partial(_run, fault, seed=seed + number, is_signed=group == SIGNED)
        found.append(Trial(group, name, trial))
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[i] for i in order[: 30 if quick else None]]


@cache
def base() -> Base:
    """Trains the run that the trials copy, once in a process."""
    temporary = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, temporary)
    return Base(temporary / "run", parts(train(temporary / "run", STEPS)))


def _run(fault: Fault, where: Path, *, seed: int, is_signed: bool) -> Ended:
    """Makes a fault in a copy of the run, and resumes it."""
    directory, outside = where / "run", where / "outside"
    shutil.copytree(base().directory, directory)
    outside.mkdir()
    (outside / "precious").write_text("precious")
    fault(directory, np.random.default_rng(seed))
    ended = _resumed(directory, is_signed)
    if [path.name for path in outside.iterdir()] != ["precious"] or (outside / "precious").read_text() != "precious":
        return Ended(WRONG, "a file outside of the run was changed")
    return ended


def _resumed(directory: Path, is_signed: bool) -> Ended:
    """Resumes a run, and judges what that ends with.

    The author of a signed checkpoint may write any history, but not other arrays by a field alone.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = parts(train(directory, STEPS))
        except Exception as error:
            return outcome_of_error(error, "checkpoint_dir: ", _LONGEST_MESSAGE)
    warned = " ".join(str(warning.message) for warning in caught)
    names = ("params", "opt_state") if is_signed else tuple(found)
    different = _differences(found, warned, names)
    return Ended(WRONG if different else NOTICED if warned else UNCHANGED, different or warned[:300])


def _differences(found: dict[str, list[np.ndarray]], warned: str, names: tuple[str, ...]) -> str:
    """Compares parts of a result with those of the run. If a warning says so, evaluations may lack, and metrics may be NaN."""
    is_damaged = HISTORY in warned
    different = []
    for name in names:
        ours, theirs = found[name], base().parts[name]
        if name == "evaluations" and is_damaged:
            values = lambda leaves: {value for leaf in leaves for value in leaf.ravel().tolist()}
            is_equal = values(ours) <= values(theirs)
        else:
            pairs = list(zip(ours, theirs, strict=False))
            may_be_lost = name == "history" and is_damaged
            is_equal = len(ours) == len(theirs) and all(_is_equal(*pair, may_be_lost=may_be_lost) for pair in pairs)
        if not is_equal:
            different.append(name)
    return f"differs: {', '.join(different)}" if different else ""


def _is_equal(ours: np.ndarray, theirs: np.ndarray, *, may_be_lost: bool) -> bool:
    """Compares two arrays. If values may be lost, NaN equals anything."""
    lost = np.isnan(ours) if may_be_lost else False
    return ours.shape == theirs.shape and bool((lost | (ours == theirs)).all())


def _faults() -> Iterator[tuple[str, str, Fault]]:
    """Yields the group, the name and the function of every fault."""
    newest = _newest(base().directory)
    files = [path.relative_to(newest) for path in sorted(newest.rglob("*")) if path.is_file()]
    some = [file for file in files if len(file.parts) < 3 or file.parts[1] in "01"]  # metadata, and two arrays of many
    for number in range(400):
        yield "a flipped bit in a checkpoint", f"flip {number}", partial(_flip_in_checkpoint, file=files[number % len(files)])
    for number in range(400):
        yield "a flipped bit in the history", f"flip {number}", _flip_in_history
    for number in range(40):
        yield "a flipped bit in every checkpoint", f"flip {number}", partial(_flip_in_all, file=files[number % len(files)])
    for number in range(100):
        yield "a file cut short", f"cut {number}", partial(_cut, file=[*files, None][number % (len(files) + 1)])
    for name, replace in REPLACEMENTS.items():
        for file in [*some, Path("arrays"), Path("arrays/0"), Path(".")]:
            yield "something else in the place of a file", f"{file}: {name}", partial(_replace, file=file, replace=replace)
        for other in (HISTORY, f".{HISTORY}", ".lock"):
            fault = partial(_replace_beside, file=other, replace=replace)
            yield "something else in the place of a file", f"{other}: {name}", fault
    for file in some:
        for name in ("a sparse tebibyte", "a nested bomb", "random bytes", "empty"):
            if file.name != "manifest.json":
                fault = partial(_replace, file=file, replace=REPLACEMENTS[name], signs=True)
                yield SIGNED, f"{file}: {name}", fault
    number = 0
    for name in ("manifest.json", "arrays/_METADATA", "arrays/0/.zarray"):
        for keys in _fields(json.loads((newest / name).read_text())):
            for what, value in HOSTILE_VALUES.items():
                number += 1
                if number % 2 and keys[0] != "digest":  # half of them, but every field
                    fault = partial(_set_field, file=name, keys=keys, value=value)
                    yield SIGNED, f"{name}, {'/'.join(map(str, keys))[:80]}: {what}", fault


def _sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


REPLACEMENTS: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "random bytes": lambda path: path.write_bytes(np.random.default_rng(0).bytes(1000)),
    "a nested bomb": lambda path: path.write_bytes(b"[" * 100_000),
    "a sparse tebibyte": _sparse,
    "a directory": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a file outside": lambda path: path.symlink_to(_outside(path) / "precious"),
    "a link to a directory outside": lambda path: path.symlink_to(_outside(path)),
    "a link to nothing": lambda path: path.symlink_to(_outside(path) / "missing"),
    "a link to its own directory": lambda path: path.symlink_to(path.parent),
}

HOSTILE_VALUES: dict[str, Any] = {
    "null": None,
    "minus one": -1,
    "2^62": 1 << 62,
    "a number of 400 digits": 10**400,
    "a large float": 1e308,
    "NaN": float("nan"),
    "true": True,
    "an empty text": "",
    "a text of a megabyte": "x" * 1_000_000,
    "a path outside": "../../../outside/precious",
    "a type of a gigabyte": "|V1000000000",
    "an empty list": [],
    "a long list": [1 << 40] * 100_000,
    "an empty dict": {},
    "deep lists": json.loads("[" * 400 + "]" * 400),
}


def _outside(path: Path) -> Path:
    """Returns the directory outside of the run, for a path in the run."""
    return next(parent for parent in path.parents if parent.name == "run").parent / "outside"


def _newest(directory: Path) -> Path:
    return sorted(directory.glob("step_*"))[-1]


def _flip(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)


def _flip_in_checkpoint(directory: Path, rng: np.random.Generator, *, file: Path) -> None:
    _flip(_newest(directory) / file, rng)


def _flip_in_history(directory: Path, rng: np.random.Generator) -> None:
    _flip(directory / HISTORY, rng)


def _flip_in_all(directory: Path, rng: np.random.Generator, *, file: Path) -> None:
    for path in directory.glob("step_*"):
        _flip(path / file, rng)


def _cut(directory: Path, rng: np.random.Generator, *, file: Path | None) -> None:
    """Cuts a file of the newest checkpoint, or the history."""
    path = directory / HISTORY if file is None else _newest(directory) / file
    os.truncate(path, int(rng.integers(path.stat().st_size)))


def _replace(
    directory: Path, rng: np.random.Generator, *, file: Path, replace: Callable[[Path], Any], signs: bool = False
) -> None:
    """Replaces a file or directory of the newest checkpoint."""
    checkpoint = _newest(directory)
    _replaced(checkpoint / file, replace)
    if signs:
        sign(checkpoint)


def _replace_beside(directory: Path, rng: np.random.Generator, *, file: str, replace: Callable[[Path], Any]) -> None:
    _replaced(directory / file, replace)


def _replaced(path: Path, replace: Callable[[Path], Any]) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    replace(path)


def _set_field(directory: Path, rng: np.random.Generator, *, file: str, keys: tuple[Any, ...], value: Any) -> None:
    """Gives a field of a JSON file another value, and signs the checkpoint again."""
    path = _newest(directory) / file
    content = json.loads(path.read_text())
    holder = content
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    path.write_text(json.dumps(content))
    sign(_newest(directory))


def _fields(content: Any) -> Iterator[tuple[Any, ...]]:
    """Yields the keys that lead to each field of JSON values. Of more than eight siblings, yields two."""
    items = (
        list(content.items()) if isinstance(content, dict) else list(enumerate(content)) if isinstance(content, list) else []
    )
    for key, value in items[: None if len(items) <= 8 else 2]:
        yield (key,)
        yield from ((key, *keys) for keys in _fields(value))


def sign(checkpoint: Path) -> None:
    """Writes valid digests into a manifest, as the author of a hostile checkpoint does."""
    path = checkpoint / "manifest.json"
    content = json.loads(path.read_text())
    files = content.get("files")
    if isinstance(files, dict):
        for file in (checkpoint / "arrays").rglob("*"):
            name = str(file.relative_to(checkpoint))
            if file.is_file() and name in files:
                size = file.stat().st_size
                files[name] = [size, hashlib.sha256(file.read_bytes()).hexdigest() if size < 1 << 22 else ""]
    content.pop("digest", None)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content | {"digest": digest}, sort_keys=True))


assert STEPS % SAVE_EVERY == 0
