"""Tests the data: published counts and baselines, and damaged, hostile or missing files."""

import hashlib
import http.server
import io
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import data
from experiments.music import baselines

needs_the_data = pytest.mark.skipif(
    not os.environ.get(data.FOLDER_VARIABLE), reason=f"{data.FOLDER_VARIABLE} is not set to a directory with the data"
)
PIECES = {  # (pieces, frames) of train, valid and test
    "JSB Chorales": ((229, 13807), (76, 4602), (77, 4725)),
    "Nottingham": ((694, 176561), (173, 45513), (170, 44463)),
    "MuseData": ((524, 245202), (135, 82755), (124, 64339)),
    "Piano-midi": ((87, 75911), (12, 8540), (25, 19036)),
}
# The dimensions that Chung et al. report imply the same highest notes.
HIGHEST_MIDI_NOTE = {
    "JSB Chorales": 96,
    "Nottingham": 93,
    "MuseData": 105,
    "Piano-midi": 108,
}


@needs_the_data
@pytest.mark.parametrize("name", data.MUSIC)
def test_music_has_the_published_counts_and_baselines(name):
    music = data.load_music(name)
    assert tuple((len(pieces), sum(map(len, pieces))) for pieces in music) == PIECES[name]
    frames = np.concatenate([piece for pieces in music for piece in pieces])
    assert frames.dtype == np.uint8
    assert np.flatnonzero(frames.any(0)).max() + data.LOWEST_MIDI_NOTE == HIGHEST_MIDI_NOTE[name]
    assert {
        "note 1-gram": f"{baselines.note_1gram(music.train, music.test):.2f}",
        "note 1-gram (IID)": f"{baselines.note_1gram_iid(music.train, music.test):.2f}",
    } == baselines.PUBLISHED[name]


@needs_the_data
def test_nine_tenths_of_the_text_are_for_training_and_one_tenth_for_validation():
    text = data.load_text()
    assert (len(text.train), len(text.valid), len(text.alphabet)) == (1_003_854, 111_540, 65)
    assert "".join(text.alphabet[i] for i in text.train[:14]) == "First Citizen:"


def matlab(compressed=True, **variables):
    """Returns the bytes of a MATLAB file."""
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=compressed)
    return file.getvalue()


def cell(*pieces):
    """Returns a MATLAB cell of pieces."""
    row = np.empty((1, len(pieces)), object)
    row[0, :] = pieces
    return row


def piece(T=5, notes=88, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (T, notes)).astype(np.uint8)


SPLITS = {"traindata": cell(piece(5), piece(7)), "validdata": cell(piece(3)), "testdata": cell(piece(4, seed=1))}


def read(content, folder):
    path = Path(folder) / "music.mat"
    path.write_bytes(content)
    return data.read_music(path)


def test_pieces_are_read_as_written(tmp_path):
    music = read(matlab(**SPLITS), tmp_path)
    assert [len(one) for one in music.train] == [5, 7]
    np.testing.assert_array_equal(music.test[0], piece(4, seed=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"traindata": None}, r"got the cells \['validdata', 'testdata'\], expected \['traindata', 'validdata', 'testdata'\]"),
        ({"traindata": piece()}, r"got the cells \['validdata', 'testdata'\]"),
        ({"validdata": cell()}, "validdata is empty"),
        ({"testdata": cell(piece(notes=87))}, r"testdata\[0\] has shape \(5, 87\), expected \(T, 88\)"),
        ({"testdata": cell(piece(T=0))}, r"testdata\[0\] has shape \(0, 88\)"),
        ({"testdata": cell(np.zeros((2, 3, 88), np.uint8))}, r"testdata\[0\] has shape \(2, 3, 88\)"),
        ({"testdata": cell(piece(), piece() + 1)}, r"testdata\[1\] has entries from 1 to 2, expected 0 and 1"),
        ({"testdata": cell(np.full((2, 88), np.nan))}, r"testdata\[0\] has entries from nan to nan"),
        ({"testdata": cell("a text")}, "'testdata' holds a matrix of class 4, expected real numbers"),
        ({"testdata": cell(piece() * 1j)}, r"'testdata' holds a matrix of class 6 \(complex\)"),
        ({"testdata": cell(cell(piece()))}, "'testdata' holds a matrix of class 1"),
        ({"testdata": cell({"a": 1})}, "'testdata' holds a matrix of class 2"),
    ],
)
def test_file_with_other_contents_raises(tmp_path, changes, message):
    content = matlab(**{key: value for key, value in (SPLITS | changes).items() if value is not None})
    with pytest.raises(ValueError, match=message):
        read(content, tmp_path)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, np.int64, np.uint64])
@pytest.mark.parametrize("compressed", [True, False])
def test_numbers_of_any_dtype_are_read(dtype, compressed, tmp_path):
    splits = {key: cell(*(one.astype(dtype) for one in pieces[0])) for key, pieces in SPLITS.items()}
    music = read(matlab(compressed, **splits, another=3.5), tmp_path)
    np.testing.assert_array_equal(music.train[1], piece(7))


def element(kind, body, length=None):
    return struct.pack("<II", kind, len(body) if length is None else length) + body


HEADER = matlab()[:128]
BOMB = zlib.compress(bytes(2 * 10**8), 1)


def declared(rows, pieces=1, body=None):
    """Returns a compressed cell that declares `pieces` pieces, the first one with `rows` rows."""
    numbers = element(2, b"", 2**31 - 8) if body is None else element(2, body)
    piece = element(6, struct.pack("<II", 9, 0)) + element(5, struct.pack("<ii", rows, 88)) + element(1, b"") + numbers
    head = (
        element(6, struct.pack("<II", 1, 0))
        + element(5, struct.pack("<ii", 1, pieces))
        + element(1, b"traindata" + bytes(7), 9)
    )
    return HEADER + element(15, zlib.compress(element(14, head + element(14, piece))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a MATLAB 5 file"),
        (b"<html>404: not found</html>" * 20, "expected a MATLAB 5 file"),
        (HEADER, r"got the cells \[\], expected \['traindata'"),
        (HEADER + element(15, zlib.compress(bytes(100)))[:18], "is truncated"),
        (HEADER + element(15, b"no zlib stream"), "is damaged"),
        (HEADER + element(15, zlib.compress(bytes(100))[:-6]), "is truncated"),
        (HEADER + element(14, b"x", 2**32 - 1), "is truncated: an element declares 4,294,967,295 bytes, but 1 follow"),
        (HEADER + element(15, BOMB), "unpacks to more than"),
        (declared(2**31 - 1), "is truncated: an element declares 2,147,483,640 bytes, but 0 follow"),
        (declared(2**31 - 1, body=bytes(88)), r"dimensions \(2147483647, 88\) with 88 bytes of uint8"),
        (declared(1, body=bytes(88), pieces=2**31 - 1), "declares 2,147,483,647 pieces, but 1 follow"),
        (declared(-1, body=bytes(88)), r"a matrix of dimensions \(-1, 88\)"),
    ],
    ids=[
        "empty",
        "HTML page",
        "no variables",
        "truncated",
        "not a zlib stream",
        "truncated stream",
        "long element",
        "zip bomb",
        "long element inside",
        "long piece",
        "many pieces",
        "negative size",
    ],
)
def test_hostile_file_raises_at_once(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read(content, tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_file_raises_or_is_harmless(drawn):
    import tempfile

    content = bytearray(matlab(compressed=drawn.draw(st.booleans()), **SPLITS))
    for _ in range(drawn.draw(st.integers(1, 4))):
        content[drawn.draw(st.integers(0, len(content) - 1))] = drawn.draw(st.integers(0, 255))
    content = content[: drawn.draw(st.integers(len(content) // 2, len(content)))]
    with tempfile.TemporaryDirectory() as folder:
        try:
            music = read(bytes(content), folder)
        except ValueError:
            return
    assert all(one.shape[1] == 88 for pieces in music for one in pieces)


def test_unknown_set_raises():
    with pytest.raises(ValueError, match="name: got 'Bach', expected one of 'JSB Chorales', 'Nottingham'"):
        data.load_music("Bach")


@pytest.fixture
def server(tmp_path):
    """Serves a directory over HTTP. Yields the directory and the address."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


@pytest.fixture
def downloads(tmp_path, server, monkeypatch):
    """Serves a small file as JSB Chorales. Returns that file and an empty cache directory."""
    folder, address = server
    content = matlab(**SPLITS)
    (folder / "JSB_Chorales.mat").write_bytes(content)
    source = data.Source(f"{address}/JSB_Chorales.mat", hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(data.SOURCES, "JSB_Chorales.mat", source)
    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)
    cache = tmp_path / "cache"
    monkeypatch.setattr(data.pooch, "os_cache", lambda name: cache)
    return folder / "JSB_Chorales.mat", cache


def test_file_is_downloaded_once_with_a_progress_bar(downloads, capsys):
    served, cache = downloads
    assert len(data.load_music("JSB Chorales").train) == 2
    assert "100%" in capsys.readouterr().err
    served.unlink()
    assert len(data.load_music("JSB Chorales").train) == 2
    assert [path.name for path in cache.iterdir()] == ["JSB_Chorales.mat"]


def test_download_with_another_hash_raises_and_is_deleted(downloads):
    served, cache = downloads
    served.write_bytes(matlab(**SPLITS | {"traindata": cell(piece())}))
    with pytest.raises(ValueError, match=r"got a file with another SHA-256, expected .*GRU_JAX_DATA"):
        data.load_music("JSB Chorales")
    assert not list(cache.iterdir())


def test_damaged_file_in_the_cache_is_downloaded_again(downloads):
    _, cache = downloads
    data.load_music("JSB Chorales")
    (cache / "JSB_Chorales.mat").write_bytes(b"damaged")
    assert len(data.load_music("JSB Chorales").train) == 2


def test_failed_download_raises_and_names_the_fix(downloads, monkeypatch):
    monkeypatch.setitem(data.SOURCES, "JSB_Chorales.mat", data.SOURCES["JSB_Chorales.mat"]._replace(url="http://127.0.0.1:1/x"))
    with pytest.raises(
        ConnectionError, match=r"expected to download.*put JSB_Chorales.mat in a directory and set GRU_JAX_DATA"
    ):
        data.load_music("JSB Chorales")


def test_missing_page_raises(downloads):
    downloads[0].unlink()
    with pytest.raises(ConnectionError, match="expected to download"):
        data.load_music("JSB Chorales")


def test_data_directory_of_the_user_is_read_and_never_written(downloads, tmp_path, monkeypatch):
    served, cache = downloads
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(own))
    with pytest.raises(FileNotFoundError, match=r"GRU_JAX_DATA: got '.*own', which does not contain JSB_Chorales.mat"):
        data.load_music("JSB Chorales")
    (own / "JSB_Chorales.mat").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"got SHA-256 .*, expected .*\. The file is not the one"):
        data.load_music("JSB Chorales")
    assert (own / "JSB_Chorales.mat").read_bytes() == b"another"
    (own / "JSB_Chorales.mat").write_bytes(served.read_bytes())
    assert len(data.load_music("JSB Chorales").train) == 2
    assert not cache.exists()
