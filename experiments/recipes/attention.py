"""Shows a sequence-to-sequence network with attention: it reads a padded sequence and writes it backwards.

The encoder is a bidirectional GRU. Its outputs are the memory of the decoder, and differ from one
sequence to the next. They and their mask are leaves of the decoder's params with batch axes, and
gradients flow through them to the encoder. The decoder learns with the right last token as its
input (teacher forcing), and writes by `gj.step`, one token at a time: the most probable one
(greedy), or several sequences side by side (beam search).

Source: Luong et al. 2015 (arXiv 1508.04025), whose "general" score h Q mᵀ is used; the context is an
input of the step, as in Bahdanau et al. 2014 (arXiv 1409.0473).
Run `python -m experiments.recipes.attention`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj
from gru_jax.ops import dot

END = 0  # ends a sequence, and is the first input of the decoder
GRU = gj.gru()
ENCODER = gj.bidirectional(GRU)


class DecoderWeights(NamedTuple):
    """What the decoder learns: a GRU of the last token and the context, and the form of the scores."""

    gru: Any
    Q: jax.Array  # (H, K)


class DecoderParams(NamedTuple):
    """The params of the cell: its weights, and a memory with its mask for each sequence."""

    weights: DecoderWeights
    memory: jax.Array  # (*batch, S, K)
    is_valid: jax.Array  # (*batch, S), booleans


def init_decoder(
    key: jax.Array, input_size: int, hidden_size: int, memory_size: int, dtype: Any = jnp.float32
) -> DecoderWeights:
    """Draws the weights of the decoder. `DecoderParams` adds the memory."""
    key_gru, key_Q = jax.random.split(key)
    Q = jax.nn.initializers.lecun_normal()(key_Q, (hidden_size, memory_size), dtype)
    return DecoderWeights(GRU.init(key_gru, input_size + memory_size, hidden_size, dtype=dtype), Q)


def attention(params: DecoderParams, h: jax.Array) -> jax.Array:
    """Computes how much of each memory entry a state reads, (*batch, S): 0 for padding."""
    scores = jnp.einsum("...k,...sk->...s", dot(h, params.weights.Q), params.memory)
    return jax.nn.softmax(jnp.where(params.is_valid, scores, -jnp.inf))


def gates(params: DecoderParams, x: jax.Array, h: jax.Array) -> Any:
    """The gates of the GRU, whose input is x and the context."""
    context = jnp.einsum("...s,...sk->...k", attention(params, h), params.memory)
    u = GRU.project(params.weights.gru, jnp.concatenate([x, context], axis=-1))
    return GRU.gates(params.weights.gru, u, h)


# α = softmax(h₋ Q memoryᵀ),   context = α memory,   h = GRU([x, context], h₋)
DECODER = gj.Cell(
    init_decoder,
    project=lambda params, xs: xs,
    gates=gates,
    update=GRU.update,
    zero_state=lambda params: jnp.zeros(params.weights.Q.shape[0], params.weights.Q.dtype),
    name="attention",
)


def init(key: jax.Array, tokens: int, embedding: int = 32, hidden: int = 64, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Draws all parameters, for tokens from 0, which is END, to `tokens` - 1."""
    keys = jax.random.split(key, 5)
    return {
        "embed": jax.random.normal(keys[0], (tokens, embedding), dtype),
        "encoder": ENCODER.init(keys[1], embedding, hidden, dtype=dtype),
        "start": gj.heads.init_dense(keys[2], hidden, hidden, dtype=dtype),
        "decoder": DECODER.init(keys[3], embedding, hidden, 2 * hidden, dtype=dtype),
        "head": gj.heads.init_dense(keys[4], hidden, tokens, dtype=dtype),
    }


def encode(params: dict, source: jax.Array, lengths: jax.Array) -> tuple[DecoderParams, jax.Array]:
    """Reads the source.

    Args:
        params: From `init`.
        source: The tokens, (S, B). Those of the padding have no effect.
        lengths: The lengths of the sequences, (B,), at least 1.

    Returns:
        The params of the decoder and its first state.
    """
    (_, backward), encoded = gj.unroll(ENCODER, params["encoder"], params["embed"][source], lengths=lengths)
    is_valid = jnp.arange(source.shape[0]) < lengths[:, None]
    memory = jnp.swapaxes(encoded, 0, 1)  # (B, S, K)
    return DecoderParams(params["decoder"], memory, is_valid), gj.heads.dense(params["start"], backward, "tanh")


def logits(params: dict, source: jax.Array, lengths: jax.Array, target: jax.Array) -> jax.Array:
    """Computes the logits of every target token, (T, B, tokens), given the target before it."""
    decoder, h0 = encode(params, source, lengths)
    before = jnp.concatenate([jnp.full_like(target[:1], END), target[:-1]])
    _, ys = gj.unroll(DECODER, decoder, params["embed"][before], h0)
    return gj.heads.dense(params["head"], ys)


@partial(jax.jit, static_argnums=3)
def greedy(params: dict, source: jax.Array, lengths: jax.Array, steps: int) -> jax.Array:
    """Writes the most probable token at each step, and END after END. Returns tokens (steps, B)."""
    decoder, h0 = encode(params, source, lengths)

    def write(carry: Any, _: None) -> tuple[Any, jax.Array]:
        h, token, has_ended = carry
        h, y = gj.step(DECODER, decoder, h, params["embed"][token])
        token = jnp.where(has_ended, END, gj.heads.dense(params["head"], y).argmax(-1))
        return (h, token, has_ended | (token == END)), token

    start = h0, jnp.full_like(lengths, END), jnp.zeros(lengths.shape, bool)
    return jax.lax.scan(write, start, None, length=steps)[1]


@partial(jax.jit, static_argnums=(3, 4))
def beam_search(params: dict, source: jax.Array, lengths: jax.Array, steps: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Keeps the `width` most probable sequences at each step.

    Returns:
        The tokens, (B, width, steps), the best sequence first, with END after END; and the
        logarithms of their probabilities, (B, width).
    """
    decoder, h0 = encode(params, source, lengths)
    decoder = decoder._replace(memory=decoder.memory[:, None], is_valid=decoder.is_valid[:, None])  # the same for all beams
    beams = (lengths.shape[0], width)
    h = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], (*beams, *leaf.shape[1:])), h0)
    only_end = jnp.where(jnp.arange(params["embed"].shape[0]) == END, 0.0, -jnp.inf)

    def write(carry: Any, t: jax.Array) -> tuple[Any, None]:
        h, token, has_ended, total, written = carry
        h, y = gj.step(DECODER, decoder, h, params["embed"][token])
        log_p = jax.nn.log_softmax(gj.heads.dense(params["head"], y))
        log_p = total[..., None] + jnp.where(has_ended[..., None], only_end, log_p)
        total, best = jax.lax.top_k(log_p.reshape(beams[0], -1), width)
        beam, token = jnp.divmod(best, log_p.shape[-1])
        pick = lambda leaf: jnp.take_along_axis(leaf, jnp.expand_dims(beam, tuple(range(2, leaf.ndim))), 1)
        h, has_ended, written = jax.tree.map(pick, (h, has_ended, written))
        return (h, token, has_ended | (token == END), total, written.at[:, :, t].set(token)), None

    total = jnp.broadcast_to(jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf), beams)  # all beams start as one
    token = jnp.full(beams, END)
    start = h, token, jnp.zeros(beams, bool), total.astype(params["embed"].dtype), jnp.full((*beams, steps), END)
    (_, _, _, total, written), _ = jax.lax.scan(write, start, jnp.arange(steps))
    return written, total


def draw_batch(rng: np.random.Generator, size: int, longest: int, tokens: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws sequences of 1 to `longest` tokens, and the same backwards with END after them.

    Returns:
        The sources (longest, B), their lengths (B,), and the targets (longest + 1, B), in which END
        fills the rest.
    """
    lengths = rng.integers(1, longest + 1, size)
    source = rng.integers(1, tokens, (longest, size))
    target = np.full((longest + 1, size), END)
    for b, length in enumerate(lengths):
        target[:length, b] = source[:length, b][::-1]
    return jnp.asarray(source), jnp.asarray(lengths), jnp.asarray(target)


def loss_fn(params: dict, source: jax.Array, lengths: jax.Array, target: jax.Array) -> jax.Array:
    """Computes the cross-entropy of a target token, in nats. END counts once."""
    mask = jnp.arange(target.shape[0])[:, None] <= lengths
    return gj.heads.softmax_cross_entropy(logits(params, source, lengths, target), target, mask).sum() / mask.sum()


def accuracy(written: jax.Array, lengths: jax.Array, target: jax.Array) -> float:
    """Returns the share of right tokens, with END once. `written` and `target` are (T, B)."""
    mask = np.arange(target.shape[0])[:, None] <= np.asarray(lengths)
    return float((np.asarray(written) == np.asarray(target))[mask].mean())


def train(steps: int = 1000, seed: int = 0, longest: int = 8, tokens: int = 10) -> tuple[dict, dict[str, float]]:
    """Trains on new sequences at every step.

    Returns:
        The parameters, and the accuracy of greedy writing and of beam search on 500 new sequences.
    """
    rng = np.random.default_rng(seed)
    params = init(jax.random.key(seed), tokens)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(5e-3, steps)))
    opt_state = optimizer.init(params)

    @jax.jit
    def update(params: dict, opt_state: optax.OptState, *batch: jax.Array) -> tuple[dict, optax.OptState, jax.Array]:
        loss, gradient = jax.value_and_grad(loss_fn)(params, *batch)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    for _ in range(steps):
        params, opt_state, _ = update(params, opt_state, *draw_batch(rng, 64, longest, tokens))
    source, lengths, target = draw_batch(rng, 500, longest, tokens)
    beams, _ = beam_search(params, source, lengths, longest + 1, 4)
    written = {"greedy": greedy(params, source, lengths, longest + 1), "beam of 4": beams[:, 0].T}
    return params, {how: accuracy(found, lengths, target) for how, found in written.items()}


if __name__ == "__main__":
    for how, share in train()[1].items():
        print(f"{how}: {100 * share:.2f} % of the tokens of new sequences are right")
