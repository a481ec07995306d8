"""Shows how to export a GRU to ONNX and serve it with onnxruntime.

The model takes sentences of different lengths, in batches of any size. This program trains
the network of `padded_sentences`, exports it, and prints the predictions of both. Run
`python -m experiments.recipes.serve_onnx`.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gru_jax as gj
from experiments.recipes import padded_sentences


def export(path: Path, params: dict[str, Any]) -> None:
    """Writes the recurrent layer as an ONNX model, and the dense layer as a safetensors file."""
    gj.convert.save_onnx(path, padded_sentences.READER, params["reader"], lengths=True)
    gj.convert.save_safetensors(path.with_suffix(".safetensors"), params["head"]._asdict())


def load(path: Path) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Loads the exported network as a function from (xs, lengths) to one logit per sentence.

    The function needs onnxruntime and NumPy, but not JAX.
    """
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
    xs, lengths = padded_sentences.pad(padded_sentences.draw_sentences(np.random.default_rng(1), 5))
    with tempfile.TemporaryDirectory() as directory:
        export(Path(directory) / "reader.onnx", params)
        served = load(Path(directory) / "reader.onnx")
        print("onnxruntime", served(np.asarray(xs), np.asarray(lengths)).round(3))
    print("gru_jax    ", np.asarray(padded_sentences.logits(params, xs, lengths)).round(3))
