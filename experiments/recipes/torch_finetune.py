"""Shows how to convert a GRU that was trained in PyTorch, and fine-tune it.

`train_in_pytorch` trains a network on handwritten digits, read row by row from the top. `fine_tune`
trains it further on digits that are read from the bottom.
Run `python -m experiments.recipes.torch_finetune`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj
from experiments import digits

CELL = gj.gru(reset_after=True)  # the form of PyTorch's nn.GRU


def train_in_pytorch(epochs: int = 20) -> dict[str, Any]:
    """Trains an nn.GRU `rnn` with an nn.Linear `head` in PyTorch, and returns the state dict."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"rnn": torch.nn.GRU(8, digits.HIDDEN), "head": torch.nn.Linear(digits.HIDDEN, digits.CLASSES)})
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    train, _ = digits.load()
    xs, labels = torch.tensor(train.xs).transpose(0, 1), torch.tensor(train.labels)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(digits.BATCH):
            ys, _ = model["rnn"](xs[:, batch])
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model["head"](ys[-1]), labels[batch]).backward()
            optimizer.step()
    return model.state_dict()


def convert(state_dict: Mapping[str, Any]) -> digits.Params:
    """Converts the state dict to the parameters of the same network in JAX."""
    weight, bias = (jnp.array(np.asarray(state_dict[f"head.{name}"])) for name in ("weight", "bias"))
    head = gj.heads.DenseParams(V=weight.T, b_y=bias)
    return digits.Params(gj.convert.from_pytorch(CELL, state_dict, prefix="rnn."), head)


def loss_fn(params: digits.Params, batch: digits.Digits, key: jax.Array) -> tuple[jax.Array, dict]:
    """Computes the mean cross-entropy after the last row, in nats."""
    return digits.loss_fn(CELL, params, batch, key)


def fine_tune(params: digits.Params, train: digits.Digits, steps: int = 400) -> digits.Params:
    """Trains the network for `steps` updates and returns its parameters."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    return gj.train.fit(loss_fn, params, optimizer, train, key=jax.random.key(0), steps=steps, batch_size=digits.BATCH).params


def accuracy(params: digits.Params, test: digits.Digits) -> float:
    """Computes the fraction of images that are classified correctly."""
    return float(digits.evaluate(CELL, test, params)["accuracy"])


def reverse_rows(images: digits.Digits) -> digits.Digits:
    """Reverses the order of the rows, so that the images are read from the bottom."""
    return images._replace(xs=images.xs[:, ::-1])


if __name__ == "__main__":
    train, test = map(reverse_rows, digits.load())
    params = convert(train_in_pytorch())
    print(f"from the top, as trained: {100 * accuracy(params, digits.load()[1]):.1f} %")
    print(f"from the bottom: {100 * accuracy(params, test):.1f} %", end=", ")
    print(f"after fine-tuning {100 * accuracy(fine_tune(params, train), test):.1f} %")
