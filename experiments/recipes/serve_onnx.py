"""A GRU trained here, exported to ONNX and served by onnxruntime: sentences of different lengths, in batches of any size.

Trains `padded_sentences` and serves it. Run: `python -m experiments.recipes.serve_onnx`.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gru_jax as gj
from experiments.recipes import padded_sentences


def export(path: Path, params: dict[str, Any]) -> None:
    """The reader as an ONNX model that takes lengths, and its read-out beside it."""
    gj.convert.save_onnx(path, padded_sentences.READER, params["reader"], lengths=True)
    gj.convert.save_safetensors(
        path.with_suffix(".safetensors"), {k: np.asarray(v) for k, v in params["head"]._asdict().items()}
    )


def served(path: Path) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The model behind a function (xs, lengths) → one number per sentence; needs onnxruntime and NumPy, and no JAX."""
    import onnxruntime
    from safetensors.numpy import load_file

    session = onnxruntime.InferenceSession(path)
    head = load_file(path.with_suffix(".safetensors"))

    def logits(xs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        (h_last,) = session.run(["h_last"], {"xs": np.asarray(xs), "lengths": np.asarray(lengths, np.int32)})
        return (np.concatenate(h_last, -1) @ head["V"] + head["b_y"])[:, 0]

    return logits


if __name__ == "__main__":
    params, _ = padded_sentences.train()
    xs, lengths = padded_sentences.padded(padded_sentences.sentences(np.random.default_rng(1), 5))
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder) / "reader.onnx", params)
        print("onnxruntime", served(Path(folder) / "reader.onnx")(np.asarray(xs), np.asarray(lengths)).round(3))
    print("here       ", np.asarray(padded_sentences.logits(params, xs, lengths)).round(3))
