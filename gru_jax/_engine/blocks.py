"""Time in blocks: a scan over blocks around the scans over their steps.

What is computed for all steps at once (the projection of the input, the gates of the backward pass,
the weight gradients) is computed for one block at a time. Its arrays stay in the cache, and only
inputs, states, their cotangents, and saved gates are as long as the sequence.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def scan_blocks(
    body: Callable[[Any, Any, Any], tuple[Any, Any, Any]],
    carry: Any,
    over_time: Any,
    per_block: Any,
    block_size: int | None,
    *,
    reverse: bool,
) -> tuple[Any, Any, Any]:
    """Scans `body(carry, over_time, per_block) -> (carry, over_time, per_block)` over blocks of
    time.

    Args:
        body: One block. Its arguments hold the block's part of the sequences, and the block's own
            entry of `per_block`.
        carry: What goes from block to block.
        over_time: A pytree whose leaves have the steps as their first axis, in the order of time.
        per_block: A pytree whose leaves have the blocks as their first axis, in the order of time.
        block_size: The steps per block. Blocks start at multiples of it. A shorter last block
            comes first in reverse. None stands for a single block.
        reverse: Whether the scan goes from the last block to the first.

    Returns:
        The carry after the last block, and the results of all blocks put together.
    """
    steps = jax.tree.leaves(over_time)[0].shape[0]
    if block_size is None or block_size >= steps:  # no loop around a single block
        carry, out, of_block = body(carry, over_time, jax.tree.map(lambda leaf: leaf[0], per_block))
        return carry, out, jax.tree.map(lambda leaf: leaf[None], of_block)
    blocks, rest = divmod(steps, block_size)
    whole_steps = blocks * block_size
    split = lambda leaf: leaf[:whole_steps].reshape(blocks, block_size, *leaf.shape[1:])
    whole = jax.tree.map(split, over_time), jax.tree.map(lambda leaf: leaf[:blocks], per_block)
    last = jax.tree.map(lambda leaf: leaf[whole_steps:], over_time), jax.tree.map(lambda leaf: leaf[-1], per_block)

    def scan_whole_blocks(carry):
        def scan_body(carry, block):
            carry, out, of_block = body(carry, *block)
            return carry, (out, of_block)

        carry, (out, of_block) = lax.scan(scan_body, carry, whole, reverse=reverse)
        return carry, jax.tree.map(lambda leaf: leaf.reshape(whole_steps, *leaf.shape[2:]), out), of_block

    if not rest:
        return scan_whole_blocks(carry)
    if reverse:
        carry, last_out, last_of_block = body(carry, *last)
        carry, out, of_block = scan_whole_blocks(carry)
    else:
        carry, out, of_block = scan_whole_blocks(carry)
        carry, last_out, last_of_block = body(carry, *last)
    join = lambda one, other: jnp.concatenate([one, other])
    join_one = lambda all_but_last, last_one: join(all_but_last, last_one[None])
    return carry, jax.tree.map(join, out, last_out), jax.tree.map(join_one, of_block, last_of_block)
