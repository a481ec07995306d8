"""Bidirectional layers equal two calls of `unroll`, also with padding, resets and noise."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE, LENGTHS
from tests.problems import B, D, H, T, assert_close, assert_raises, compiled, normal, normal_like, problem, small_like

KEY = jax.random.key(0)


def random_problem(cell):
    """Draws (params, xs, h0, reset state)."""
    params = small_like(0, jax.eval_shape(lambda key: cell.init(key, D, H, dtype=jnp.result_type(float)), KEY))
    states = jax.eval_shape(lambda: (cell.initial_state(params, B), cell.initial_state(params)))
    return params, normal(1, T, B, D), *normal_like(2, states)


MERGES = {
    "concat": lambda f, b: jnp.concatenate([f, b], -1),
    "sum": lambda f, b: f + b,
    "mean": lambda f, b: 0.5 * f + 0.5 * b,
    "mul": lambda f, b: f * b,
}


def resets_at_ends(resets, mask=None, lengths=None, reverse=False):
    """Marks the last valid step of each segment before another, by a loop over single steps."""
    ends = np.zeros_like(resets)
    for b in range(B):
        valid = [t for t in range(T) if (mask is None or mask[t, b]) and (lengths is None or t < lengths[b])]
        order = valid[::-1] if reverse else valid
        for step, following in itertools.pairwise(order):
            ends[step, b] = resets[following, b]
    return ends


@pytest.mark.derivative
@pytest.mark.parametrize(
    ("merge", "reverse"),
    [
        ("concat", True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("concat", False), ("mul", True), ("sum", False), ("mean", True))
        ),
    ],
)
def test_a_bidirectional_layer_equals_two_unrolls(merge, reverse):
    cell = gj.bidirectional(gj.gru(), gj.lstm(), merge=merge)

    def two_unrolls(params, xs, h0, reset_state):
        f, ys_f = gj.unroll(gj.gru(), params.forward, xs, h0[0], reset_state=reset_state[0], reverse=reverse, **ALL_THREE)
        opposite = ALL_THREE | {"resets": resets_at_ends(**ALL_THREE, reverse=reverse)}
        b, ys_b = gj.unroll(gj.lstm(), params.backward, xs, h0[1], reset_state=reset_state[1], reverse=not reverse, **opposite)
        return (f, b), MERGES[merge](ys_f, ys_b)

    def one_layer(derivative, params, xs, h0, reset_state):
        return gj.unroll(cell, params, xs, h0, reset_state=reset_state, reverse=reverse, derivative=derivative, **ALL_THREE)

    def results(args):
        def of(run):
            loss = lambda args: sum(jnp.sin(3 * leaf).sum() for leaf in jax.tree.leaves(run(*args)))
            return run(*args), jax.grad(loss)(args)

        return [of(run) for run in (two_unrolls, *(partial(one_layer, each) for each in (gj.CustomVJP(), gj.CustomJVP())))]

    expected, *measured = compiled(results, random_problem(cell))
    for result in measured:
        assert_close(result, expected)


def test_a_padded_batch_equals_each_sequence_alone():
    cell = gj.bidirectional(gj.lstm())
    params, xs, h0, _ = random_problem(cell)
    one = lambda tree, b: jax.tree.map(lambda leaf: leaf[b : b + 1], tree)

    def results(params, xs, h0):
        alone = [gj.unroll(cell, params, xs[:length, b : b + 1], one(h0, b)) for b, length in enumerate(LENGTHS)]
        return gj.unroll(cell, params, xs, h0, lengths=LENGTHS), alone

    (h_last, ys), of_each = compiled(results, params, xs, h0)
    assert ys.shape == (T, B, 2 * H)
    for b, (length, (alone_last, alone)) in enumerate(zip(LENGTHS, of_each, strict=True)):
        assert_close(ys[:length, b : b + 1], alone)
        assert_close(one(h_last, b), alone_last)
        assert not ys[length:, b].any()


def test_every_merge_is_its_function_of_the_outputs_of_both_directions():
    params, xs, h0, _ = random_problem(gj.bidirectional(gj.gru()))
    run = lambda merge: gj.unroll(gj.bidirectional(gj.gru(), merge=merge), params, xs, h0, lengths=LENGTHS)[1]
    merged = compiled(lambda: {merge: run(merge) for merge in MERGES})
    both = np.split(merged["concat"], 2, -1)
    for merge, function in MERGES.items():
        assert_close(merged[merge], np.asarray(function(*both)))


def test_one_cell_serves_both_directions_with_separate_parameters():
    cell = gj.bidirectional(gj.gru())
    assert cell == gj.bidirectional(gj.gru(), gj.gru(), "concat")
    params = cell.init(KEY, D, H)
    assert (params.forward.W_z != params.backward.W_z).any()
    assert cell.output_size(params) == 2 * H
    assert gj.bidirectional(gj.gru(), merge="sum").output_size(params) == H
    wider = params._replace(backward=problem(gj.gru(), hidden_size=H + 1).params)
    assert cell.output_size(wider) == 2 * H + 1


def test_states_are_returned_for_both_directions():
    cell = gj.bidirectional(gj.gru(), gj.lstm())
    params, xs, h0, _ = random_problem(cell)
    run = partial(gj.unroll, cell, lengths=LENGTHS, outputs="states")
    h_last, (forward, backward) = compiled(run, params, xs, h0)
    assert_close(forward[-1], h_last[0], tol=0)
    assert_close(jax.tree.map(lambda leaf: leaf[0], backward), h_last[1], tol=0)
    assert jax.eval_shape(partial(gj.unroll, cell, outputs="last"), params, xs, h0)[1] is None


@pytest.mark.parametrize("gap", [pytest.param(0, marks=pytest.mark.slow), 1], ids=["side by side", "with padding between"])
@pytest.mark.parametrize("reverse", [pytest.param(False, marks=pytest.mark.slow), True])
def test_packed_segments_do_not_see_each_other(gap, reverse):
    """Segments at 0–1, 2–4 and 5–6 in the first row, others in the second, one in the third."""
    cell = gj.bidirectional(gj.gru(), gj.lstm())
    params, xs, *_ = random_problem(cell)
    segments = [[(0, 2), (2, 5), (5, T)], [(0, 4), (4, T)], [(0, T)]]
    resets, mask = np.zeros((T, B), bool), np.zeros((T, B), bool)
    packed = []  # (row, start, end) of each segment
    for b, of_row in enumerate(segments):
        for start, stop in of_row:
            end = stop - gap if stop < T else stop
            mask[start:end, b] = True
            resets[end - 1 if reverse else start, b] = True
            packed.append((b, start, end))
    options = {"resets": resets, "reverse": reverse} | ({"mask": mask} if gap else {})

    def results(xs):
        """Runs all rows, and each segment alone, in a row that begins or, in reverse, ends with it."""
        of_rows = gj.unroll(cell, params, xs, **options)[1]
        alone = jnp.stack([jnp.zeros_like(xs[:, 0]).at[: end - start].set(xs[start:end, b]) for b, start, end in packed], 1)
        lengths = np.array([end - start for _, start, end in packed])
        return of_rows, gj.unroll(cell, params, alone, lengths=lengths, reverse=reverse)[1]

    ys, alone = compiled(results, xs)
    for i, (b, start, end) in enumerate(packed):
        assert_close(ys[start:end, b], alone[: end - start, i])


@pytest.mark.derivative
def test_resets_of_all_or_no_steps_and_a_sequence_of_no_steps_work():
    cell = gj.bidirectional(gj.gru())
    params, xs, h0, _ = random_problem(cell)

    def results(xs):
        everywhere, nowhere = (gj.unroll(cell, params, xs, h0, resets=np.full((T, B), value)) for value in (True, False))
        alone = jax.vmap(lambda x: gj.unroll(cell, params, x[None])[1][0])(xs)
        last = gj.unroll(gj.gru(), params.backward, xs[-1:], h0[1])[1][0]
        no_step = gj.unroll(cell, params, xs[:0], h0, resets=np.zeros((0, B), bool))[0]
        return everywhere[1], (nowhere, gj.unroll(cell, params, xs, h0)), alone, last, no_step

    ys, without, alone, last, no_step = compiled(results, xs)
    assert_close(*without, tol=0)
    # the last step of the backward cell starts from h0, all others of both cells from zeros
    assert_close(ys[:-1], alone[:-1])
    assert_close(ys[-1, :, :H], alone[-1, :, :H])
    assert_close(ys[-1, :, H:], last)
    assert_close(no_step, h0, tol=0)


def test_noise_differs_between_directions_and_keys():
    cell = gj.bidirectional(gj.zoneout(gj.gru(), 0.5))
    params, xs, h0, _ = random_problem(cell)
    run = lambda params, xs, h0: [gj.unroll(cell, params, xs, h0, key=jax.random.key(seed))[1] for seed in (0, 1)]
    one, other = compiled(run, params, xs, h0)
    assert (one != other).any()
    assert (one[..., :H] != one[..., H:]).any()
    assert cell.needs_key
    assert not cell.deterministic().needs_key
    assert np.isfinite(compiled(partial(gj.unroll, cell.deterministic()), params, xs, h0)[1]).all()


TWO = gj.bidirectional(gj.gru())
PARAMS, XS, H0, _ = random_problem(TWO)
BAD = {
    "step": (lambda: gj.step(TWO, PARAMS, H0, XS[0]), TypeError, r"cell: got bidirectional.*in step.*gj\.unroll"),
    "params of one direction": (lambda: gj.unroll(TWO, PARAMS.forward, XS), TypeError, r"params: got GRUParams, expected BidirectionalParams"),
    "another cell's params": (lambda: gj.unroll(TWO, PARAMS._replace(backward=problem(gj.elman()).params), XS), TypeError, r"params\.backward: got ElmanParams, expected GRUParams"),
    "two input sizes": (lambda: gj.unroll(TWO, PARAMS._replace(backward=problem(gj.gru(), input_size=D + 1).params), XS), ValueError, r"params: got the input sizes 4 forward and 5 backward"),
    "a sum of unequal sizes": (lambda: gj.unroll(gj.bidirectional(gj.gru(), merge="sum"), PARAMS._replace(backward=problem(gj.gru(), hidden_size=H + 1).params), XS), ValueError, r'params: got 5 units forward and 6 backward.*merge="concat"'),
    "one state": (lambda: gj.unroll(TWO, PARAMS, XS, H0[0]), TypeError, r"h0: got one array, expected a tuple of 2 \(one array, one array\), the state of cell bidirectional"),
    "merge": (lambda: gj.bidirectional(gj.gru(), merge="max"), ValueError, r"merge: got 'max', expected one of 'concat', 'sum', 'mean', 'mul'"),
    "the function that makes the cell": (lambda: gj.bidirectional(gj.gru), TypeError, r"cell: got function, expected a gj\.Cell"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises_and_names_the_fix(case):
    assert_raises(*BAD[case])
