"""The repeated terms ∂J/∂s_k of the counting RNN's gradient, shared or computed one by one."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import gru_jax as gj
from experiments.tutorials.counting_rnn import Sequences, linear_params
from gru_jax.cells.linear import LinearParams


def repeated_terms(wrec: float, last_bar: np.ndarray, steps: int) -> np.ndarray:
    """Returns the terms s̄_k = s̄_T wrec^{T-k}, (T, N), each computed from the one after it."""
    terms = [last_bar]
    for _ in range(steps - 1):
        terms.append(terms[-1] * wrec)
    return np.stack(terms[::-1])


def derivatives_shared(wrec: float, last_bar: np.ndarray, xs: np.ndarray, s_prevs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns ∂J/∂wx and ∂J/∂wrec of each state and sequence, (T, N) each.

    This takes 3T − 1 multiplications per sequence.
    """
    s_bars = repeated_terms(wrec, last_bar, len(xs))
    return s_bars * xs, s_bars * s_prevs


def derivatives_one_by_one(
    wrec: float, last_bar: np.ndarray, xs: np.ndarray, s_prevs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same as `derivatives_shared`, each by its own chain of products.

    This takes T² + T multiplications per sequence.
    """

    def derivative(k: int, local: np.ndarray) -> np.ndarray:
        chain = last_bar
        for _ in range(len(xs) - 1 - k):
            chain = chain * wrec
        return chain * local

    return np.stack([derivative(k, x) for k, x in enumerate(xs)]), np.stack([derivative(k, s) for k, s in enumerate(s_prevs)])


def terms_of(params: LinearParams, data: Sequences) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the factors of the derivatives, time first: s̄_T (N,), x_k (T, N) and s_{k-1} (T, N)."""
    states = gj.unroll(gj.linear_rnn(), params, data.xs, time_major=False)[1]
    last_bar = jax.grad(lambda y_hats: gj.heads.squared_error(y_hats, data.ys).mean())(states[:, -1])
    s_prevs = np.roll(np.asarray(states)[..., 0].T, 1, axis=0)
    s_prevs[0] = 0
    return np.asarray(last_bar)[:, 0], np.asarray(data.xs)[..., 0].T, s_prevs


def median_seconds(*functions: Callable[[], Any], repeats: int) -> list[float]:
    """Returns the median time of each function.

    The functions take turns, so that other load on the machine affects all of them.
    """
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, record in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            record.append(time.perf_counter() - began)
    return [statistics.median(record) for record in times]


def time_sharing(steps: int, sequences: int, repeats: int, seed: int) -> dict[str, float]:
    """Times both ways on long sequences, in NumPy.

    XLA would by itself eliminate the products that the one-by-one way repeats.
    """
    xs, s_prevs = np.random.default_rng(seed).random((2, steps, sequences))
    arguments = (0.99, np.ones(sequences), xs, s_prevs)
    functions = [partial(function, *arguments) for function in (derivatives_shared, derivatives_one_by_one)]
    difference = max(float(np.abs(a / b - 1).max()) for a, b in zip(*(function() for function in functions), strict=True))
    shared, one_by_one = median_seconds(*functions, repeats=repeats)
    return {
        "steps": steps, "sequences": sequences, "repeats": repeats,
        "multiplications_shared": 3 * steps - 1, "multiplications_one_by_one": steps**2 + steps,
        "multiplications_ratio": (steps**2 + steps) / (3 * steps - 1),
        "seconds_shared": shared, "seconds_one_by_one": one_by_one, "seconds_ratio": one_by_one / shared,
        "largest_relative_difference": difference,
    }  # fmt: skip


def gradient_over_time(wx: float, wrec: float, data: Sequences) -> np.ndarray:
    """Returns ‖∂J/∂s_k‖ over the sequences for k = 0 … T, (T + 1,).

    Roelants plots another quantity. He sums 2 (s_T − y) over the sequences, uses that as the
    gradient of each sequence, and then sums over the 20 sequences again.
    """
    last_bar = terms_of(linear_params(wx, wrec), data)[0]
    return np.linalg.norm(repeated_terms(wrec, last_bar, data.xs.shape[1] + 1), axis=1)


def table_of_terms(wrec: float, last_bar: np.ndarray, xs: np.ndarray, s_prevs: np.ndarray) -> list[dict[str, float]]:
    """Returns the terms of the gradient for each sequence and state, as in the tutorial."""
    wx_bars, wrec_bars = derivatives_shared(wrec, last_bar, xs, s_prevs)
    columns = {
        "∂J/∂s": repeated_terms(wrec, last_bar, len(xs)),
        "x": xs,
        "s before": s_prevs,
        "∂J/∂wx": wx_bars,
        "∂J/∂wrec": wrec_bars,
    }
    return [
        {"sequence": n + 1, "state": k + 1} | {name: column[k, n] + 0.0 for name, column in columns.items()}  # −0 becomes 0
        for n, k in np.ndindex(xs.T.shape)
    ]
