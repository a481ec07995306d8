"""Gathers, segments and permutations. Indices without repeats hide a missing sum."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.foreign_rules.case import family, numbers

TABLE = numbers(6, 3)
REPEATED, DISTINCT = np.array([2, 0, 2, 5, 0], np.int32), np.array([2, 0, 4, 5, 1], np.int32)
SEGMENTS = np.array([0, 0, 1, 2, 2], np.int32)
X = numbers(5, 3, seed=1)
take = lambda table, i: table[i]
_summed = lambda args, y, u: (jnp.zeros_like(args[0]).at[args[1]].add(u), None)
_set = lambda args, y, u: (jnp.zeros_like(args[0]).at[args[1]].set(u), None)

CASES = (
    family("embedding", take, _summed, (TABLE, REPEATED), {"set instead of add": _set})
    | family("embedding without repeats", take, _summed, (TABLE, DISTINCT), invisible={"set instead of add": (_set, (TABLE, REPEATED))})
    | family(
        "segment sum",
        lambda x, i: jax.ops.segment_sum(x, i, num_segments=3),
        lambda args, y, u: (u[args[1]], None),
        (X, SEGMENTS),
        {"mean instead": lambda args, y, u: ((u / 2)[args[1]], None)},
    )
    | family(
        "segment mean",
        lambda x, i: jax.ops.segment_sum(x, i, num_segments=3) / jnp.array([2, 1, 2])[:, None],
        lambda args, y, u: ((u / jnp.array([2, 1, 2])[:, None])[args[1]].astype(args[0].dtype), None),
        (X, SEGMENTS),
        {"sum instead": lambda args, y, u: (u[args[1]], None)},
    )
    | family(
        "permutation",
        lambda x, i: x[i],
        lambda args, y, u: (u[jnp.argsort(args[1])], None),
        (X, np.array([2, 0, 3, 4, 1], np.int32)),
        {"not inverted": lambda args, y, u: (u[args[1]], None)},
    )
    | family(
        "scatter",
        lambda x, v, i: x.at[i].set(v),
        lambda args, y, u: (u.at[args[2]].set(0), u[args[2]], None),
        (TABLE, numbers(3, 3, seed=2), np.array([4, 1, 5], np.int32)),
        {"x̄ not cleared": lambda args, y, u: (u, u[args[2]], None)},
    )
    | family(
        "roll",
        lambda x: jnp.roll(x, 2, 0),
        lambda args, y, u: (jnp.roll(u, -2, 0),),
        (X,),
        {"same way": lambda args, y, u: (jnp.roll(u, 2, 0),)},
    )
    | family(
        "reverse",
        lambda x: x[::-1] * jnp.arange(1.0, 6)[:, None].astype(x.dtype),
        lambda args, y, u: ((u * jnp.arange(1.0, 6)[:, None].astype(u.dtype))[::-1],),
        (X,),
        {"not reversed": lambda args, y, u: (u * jnp.arange(1.0, 6)[:, None].astype(u.dtype),)},
    )
    | family(
        "dynamic slice",
        lambda x, i: jax.lax.dynamic_slice(x, (i, jnp.int32(0)), (2, 3)),
        lambda args, y, u: (jax.lax.dynamic_update_slice(jnp.zeros_like(args[0]), u, (args[1], jnp.int32(0))), None),
        (X, np.int32(2)),
        {"start of zero": lambda args, y, u: (jax.lax.dynamic_update_slice(jnp.zeros_like(args[0]), u, (jnp.int32(0), jnp.int32(0))), None)},
    )
    | family(
        "sort of sorted data",
        lambda x: jnp.sort(x),
        lambda args, y, u: (u[jnp.argsort(jnp.argsort(args[0]))],),
        (np.sort(numbers(6)),),
        invisible={"permutation missing": (lambda args, y, u: (u,), (numbers(6),))},
    )
    | family(
        "cumulative product",
        lambda x: jnp.cumprod(x),
        lambda args, y, u: (jnp.cumsum((u * y)[::-1])[::-1] / args[0],),
        (numbers(6) + 3,),
        {"not reversed": lambda args, y, u: (jnp.cumsum(u * y) / args[0],)},
    )
)  # fmt: skip
