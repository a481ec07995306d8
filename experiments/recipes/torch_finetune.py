"""A PyTorch GRU trained elsewhere, moved over and fine-tuned here.

`elsewhere` trains on handwritten digits row by row from the top; here the rows come from the bottom, which the network has never
seen. Run: `python -m experiments.recipes.torch_finetune`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj
from experiments import digits

CELL = gj.gru(reset_after=True)  # PyTorch's form


def elsewhere(epochs: int = 20) -> dict[str, Any]:
    """The state dict of a network trained in PyTorch: `rnn` is an nn.GRU, `head` an nn.Linear."""
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


def moved(state_dict: Mapping[str, Any]) -> digits.Params:
    """The same network here."""
    weight, bias = (jnp.array(np.asarray(state_dict[f"head.{name}"])) for name in ("weight", "bias"))
    head = gj.heads.DenseParams(V=weight.T, b_y=bias)
    return digits.Params(gj.convert.from_pytorch(CELL, state_dict, prefix="rnn."), head)


def loss_fn(params: digits.Params, batch: digits.Digits, key: jax.Array) -> tuple[jax.Array, dict]:
    """Mean cross-entropy of the class after the last row, in nats."""
    return digits.loss_fn(CELL, params, batch, key)


def fine_tuned(params: digits.Params, train: digits.Digits, steps: int = 400) -> digits.Params:
    """After `steps` updates on other data."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    return gj.train.fit(loss_fn, params, optimizer, train, key=jax.random.key(0), steps=steps, batch_size=digits.BATCH).params


def accuracy(params: digits.Params, test: digits.Digits) -> float:
    """The share of the images that are read right."""
    return float(digits.evaluate(CELL, test, params)["accuracy"])


def upside_down(images: digits.Digits) -> digits.Digits:
    """The rows from the bottom."""
    return images._replace(xs=images.xs[:, ::-1])


if __name__ == "__main__":
    train, test = map(upside_down, digits.load())
    params = moved(elsewhere())
    print(f"from the top, as trained: {100 * accuracy(params, digits.load()[1]):.1f} %")
    print(f"from the bottom: {100 * accuracy(params, test):.1f} %", end=", ")
    print(f"after fine-tuning {100 * accuracy(fine_tuned(params, train), test):.1f} %")
