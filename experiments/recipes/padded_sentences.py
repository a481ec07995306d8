"""Shows how to classify padded sentences of different lengths with a bidirectional GRU.

The task requires both ends of a sentence: is its first word equal to its last?
Run `python -m experiments.recipes.padded_sentences`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj

WORDS = ["the", "a", "cat", "dog", "bird", "sees", "hears", "likes", "big", "small"]


def draw_sentences(rng: np.random.Generator, number: int, longest: int = 12) -> list[list[str]]:
    """Draws sentences of 2 to `longest` words. In half of them the last word repeats the first."""
    drawn = [list(rng.choice(WORDS, rng.integers(2, longest + 1))) for _ in range(number)]
    return [words[:-1] + words[:1] if rng.random() < 0.5 else words for words in drawn]


def pad(batch: list[list[str]]) -> tuple[jax.Array, jax.Array]:
    """Pads a batch of sentences.

    Returns:
        The one-hot words of shape (T, B, words), and the lengths of shape (B,). The values in the
        padding have no effect.
    """
    lengths = np.array([len(words) for words in batch])
    indices = np.full((lengths.max(), len(batch)), -1)  # one_hot(-1) is zeros
    for b, words in enumerate(batch):
        indices[: len(words), b] = [WORDS.index(word) for word in words]
    return jax.nn.one_hot(indices, len(WORDS)), jnp.asarray(lengths)


READER = gj.bidirectional(gj.gru())


def logits(params: dict, xs: jax.Array, lengths: jax.Array) -> jax.Array:
    """Computes one logit per sentence, from the final states of both directions."""
    (forward, backward), _ = gj.unroll(READER, params["reader"], xs, lengths=lengths, outputs="last")
    return gj.heads.dense(params["head"], jnp.concatenate([forward, backward], -1))[:, 0]


def train(steps: int = 400, seed: int = 0) -> tuple[dict, float]:
    """Trains on new sentences at every step.

    Returns:
        The parameters, and the accuracy on 1000 new sentences.
    """
    rng, (key_reader, key_head) = np.random.default_rng(seed), jax.random.split(jax.random.key(seed))
    params = {"reader": READER.init(key_reader, len(WORDS), 32), "head": gj.heads.init_dense(key_head, 64, 1)}
    optimizer = optax.adam(5e-3)
    opt_state = optimizer.init(params)

    def loss_fn(params: dict, xs: jax.Array, lengths: jax.Array, same: jax.Array) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(logits(params, xs, lengths), same).mean()

    @jax.jit
    def update(params: dict, opt_state: optax.OptState, *batch: jax.Array) -> tuple[dict, optax.OptState]:
        updates, opt_state = optimizer.update(jax.grad(loss_fn)(params, *batch), opt_state)
        return optax.apply_updates(params, updates), opt_state

    def draw_batch(size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        drawn = draw_sentences(rng, size)
        xs, lengths = pad(drawn)
        xs = jnp.pad(xs, ((0, 12 - xs.shape[0]), (0, 0), (0, 0)))  # all batches have one shape, so JAX compiles once
        return xs, lengths, jnp.array([float(words[0] == words[-1]) for words in drawn])

    for _ in range(steps):
        params, opt_state = update(params, opt_state, *draw_batch(64))
    xs, lengths, same = draw_batch(1000)
    return params, float(((logits(params, xs, lengths) > 0) == same).mean())


if __name__ == "__main__":
    print(f"accuracy on new sentences: {100 * train()[1]:.1f} %")
