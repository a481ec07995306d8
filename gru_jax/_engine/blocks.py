"""Time in blocks: a scan over blocks around the scans over their steps.

What is done for all t at once, the projection of the input, the gates of the backward pass, the weight gradients, is done for one
block at a time: its arrays stay in the cache, and none is as long as the sequence but inputs, states, their cotangents, and the gates
where they are kept.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._jax.devices import cores_per_device, half_precision_loops_grow, share_of_batch
from gru_jax._jax.sharding import replicated


def scan_blocks(
    body: Callable[[Any, Any, Any], tuple[Any, Any, Any]],
    carry: Any,
    over_time: Any,
    per_block: Any,
    block_size: int | None,
    *,
    reverse: bool,
) -> tuple[Any, Any, Any]:
    """`body(carry, over_time, per_block) -> (carry, over_time, per_block)` over blocks of `block_size` steps and a shorter last one.

    Leaves of `over_time` have the steps as their first axis, those of `per_block` the blocks, both in the order of time. Blocks lie
    at multiples of `block_size` whichever the direction: the shorter one holds the last steps, and comes first in reverse.
    """
    steps = jax.tree.leaves(over_time)[0].shape[0]
    size = min(block_size or steps, steps)
    if size == steps:  # no loop around a single block
        carry, out, of_block = body(carry, over_time, jax.tree.map(lambda leaf: leaf[0], per_block))
        return carry, out, jax.tree.map(lambda leaf: leaf[None], of_block)
    blocks, rest = divmod(steps, size)
    cut = lambda leaf: leaf[: blocks * size].reshape(blocks, size, *leaf.shape[1:])
    whole = jax.tree.map(cut, over_time), jax.tree.map(lambda leaf: leaf[:blocks], per_block)
    last = jax.tree.map(lambda leaf: leaf[blocks * size :], over_time), jax.tree.map(lambda leaf: leaf[-1], per_block)

    def whole_blocks(carry):
        def scan_body(carry, at):
            carry, out, of_block = body(carry, *at)
            return carry, (out, of_block)

        carry, (out, of_block) = lax.scan(scan_body, carry, whole, reverse=reverse)
        return carry, jax.tree.map(lambda leaf: leaf.reshape(blocks * size, *leaf.shape[2:]), out), of_block

    if not rest:
        return whole_blocks(carry)
    if reverse:
        carry, last_out, last_of_block = body(carry, *last)
        carry, out, of_block = whole_blocks(carry)
    else:
        carry, out, of_block = whole_blocks(carry)
        carry, last_out, last_of_block = body(carry, *last)
    joined = lambda one, other: jnp.concatenate([one, other])
    return (
        carry,
        jax.tree.map(joined, out, last_out),
        jax.tree.map(lambda all_, one: joined(all_, one[None]), of_block, last_of_block),
    )


# swept by hand on two cores, like the other sizes here, all of a CPU; experiments.block_sizes is such a sweep
BLOCK, LEAN_BLOCK = 3 * 2**16, 2**16  # states
SMALL = 2**19  # states: a sequence of fewer is below 2 MiB in float32
LONG = 4_096  # steps: jaxlib 0.11.1 takes a time quadratic in them where a step has fewer than 64 states (test_jaxlib_bugs.py)


class Chosen(NamedTuple):
    """What `residuals="auto"` and `block_size=None` stand for."""

    residuals: str
    block_size: int
    value_block_size: int  # of the forward pass where nothing is differentiated


def chosen(residuals: str, block_size: int | None, outputs: str, xs: jax.Array, h0: jax.Array, models: int = 1) -> Chosen:
    """By the shapes; what is asked for stays. `models` is how many of these `jax.vmap` runs at once.

    A small sequence is one block: its states fit into a cache, and blocks cost up to a quarter of its time; one twice as large is,
    where nothing is differentiated. Up to 128 units blocks of three times as many states as beyond are up to a fifth faster. Neither
    where "states" is asked for by name, which asks for little memory.

    `outputs="last"` in several blocks keeps the state that each starts from ("starts") and runs the block once more. Else the states
    are kept, most of which are the outputs. The gates too, where bringing them back costs more than their memory traffic: from 256
    units on for the matmuls; for a small sequence, or one up to twice as large, where a step has enough states that storing its gates
    is cheap: 512 in one block, 4,096 in several.

    Where each device has one core (a CPU that is split into as many devices as cores) no second core brings the gates back meanwhile:
    512 are enough in several blocks too, which are lean then, for up to a quarter less time.

    In half precision, where a step's time grows with the loop around it and with the arrays it stacks (`half_precision_loops_grow`),
    blocks have √T steps, which makes both loops short, and no gates are kept: one block took up to seven times as long.
    """
    steps, sequences, units = xs.shape[0], share_of_batch(models * math.prod(h0.shape[:-1]), xs), h0.shape[-1]
    per_step = sequences * units
    states = steps * per_step if steps <= LONG else math.inf
    half, whole = h0.dtype.itemsize < 4 and half_precision_loops_grow(), max(steps, 1)
    lean = half or residuals == "states"
    one_core = cores_per_device() == 1
    if block_size is not None:
        value_block_size = block_size
    elif replicated(xs) is not None:
        # a sum over a sharded batch is reduced over the devices of an Explicit mesh at once, which should happen once
        block_size = value_block_size = whole
    else:
        root, aimed = math.isqrt(steps), LEAN_BLOCK if lean or one_core or units > 128 else BLOCK
        cut = even(steps, max(root, 4)) if half else size_for(steps, sequences, units, aimed, least=root // 4)
        block_size = whole if states < SMALL and not lean else cut
        value_block_size = whole if states < (SMALL if one_core else 2 * SMALL) and not lean else cut
    if residuals == "auto" and outputs == "last" and block_size < steps:
        residuals = "starts"
    elif residuals == "auto":
        in_one = states < SMALL and block_size >= steps
        cheap = states < 2 * SMALL and per_step >= (512 if in_one or one_core else 4_096)
        residuals = "gates" if (units >= 256 or cheap) and not half else "states"
    return Chosen(residuals, block_size, value_block_size)


def size_for(steps: int, sequences: int, units: int, aimed: int, least: int = 4) -> int:
    """A block of about `aimed` states, but 512 to 4,096 rows of time times batch, and no fewer rows than units: small enough for a
    cache, large enough that a weight gradient pays for being added to the sum.

    `least` is a quarter of √steps: what one block holds, some 16 arrays, then grows as slowly as what all blocks keep.
    """
    rows = max(min(aimed // max(units, 1), 4_096), 512, units)
    return even(steps, max(rows // max(sequences, 1), least, 4))


def even(steps: int, size: int) -> int:
    """About `size`: a divisor of `steps` if there is one near, so that no block is shorter; all of them where two blocks would do."""
    if steps <= 2 * size:
        return max(steps, 1)
    near = [divisor for divisor in range(size // 2 + 1, 2 * size) if steps % divisor == 0]
    return min(near, key=lambda divisor: abs(math.log(divisor / size)), default=size)
