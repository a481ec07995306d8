"""Tests what the benchmark compares, counts and reports. No test asserts a time."""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from experiments import benchmark, plan_rules
from experiments.speed import report
from experiments.speed.measure import Program, difference, forward_program, gradient_program, interleaved, relative_difference
from experiments.speed.peers import PEERS, cudnn_lstm, ours, peers_of
from experiments.speed.problem import CELLS, Candidate, Shape, floor_flop, random_problem
from tests.convert.parity import library

SHAPE = Shape(6, 3, 4, 5)


def programs_of(name, candidate):
    problem = random_problem(CELLS[name], SHAPE)
    reference = gradient_program(ours(problem, derivative=gj.Autodiff()), problem)
    program = gradient_program(candidate(problem), problem)
    return problem, program.call(*program.arguments), reference.call(*reference.arguments)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own, under NumPy 2
@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize(
    ("name", "peer"), [(name, peer) for peer, (_, cells) in PEERS.items() for name in CELLS if CELLS[name] in cells]
)
def test_every_peer_computes_the_same_gradient(name, peer, checkpointed):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    library({"Flax NNX": "flax", "Equinox": "equinox", "Haiku": "haiku", "Keras": "keras"}[peer])
    makers = peers_of(CELLS[name], [peer])
    maker = makers[f"{peer}, checkpointed" if checkpointed else peer]
    problem, gradient, reference = programs_of(name, maker)
    assert difference(maker(problem), gradient, reference) < 1e-5


@pytest.mark.slow
def test_cudnn_reference_computes_our_lstm():
    problem, gradient, reference = programs_of("LSTM", cudnn_lstm)
    assert difference(cudnn_lstm(problem), gradient, reference) < 1e-5


def test_wrong_gradient_is_far_from_the_reference():
    problem, gradient, reference = programs_of("GRU", ours)
    assert difference(ours(problem), gradient, reference) < 1e-5
    assert difference(ours(problem), gradient._replace(U_z=gradient.U_z.T), reference) > 0.1
    assert difference(ours(problem), gradient._replace(b_r=1.01 * gradient.b_r), reference) == pytest.approx(0.01, rel=0.01)


def test_nan_or_another_shape_is_never_a_small_difference():
    one = {"a": np.ones(3), "b": np.ones((2, 2)), "c": np.ones(1)}
    assert relative_difference(one, one) == 0
    for name, at in (("a", 0), ("b", (1, 1)), ("c", 0)):
        wrong = one[name].copy()
        wrong[at] = np.nan
        assert np.isnan(relative_difference(one | {name: wrong}, one))
    with pytest.raises(AssertionError):
        relative_difference(one | {"b": np.ones((1, 2))}, one)


@pytest.mark.parametrize("text", ["100,32,64", "100,32,64,", "a,b,c,d", "0,1,1,1", "1.5,1,1,1", "1,2,3,4,5", "-1,2,3,4"])
def test_malformed_shape_exits_with_a_message(text):
    with pytest.raises(SystemExit, match=r"--shapes: got .*expected T,B,D,H"):
        benchmark.shapes_of((text,))
    assert benchmark.shapes_of(("6,3,4,5",)) == [SHAPE]


@pytest.mark.slow
def test_bias_split_in_two_has_the_gradient_in_both_parts():
    problem, _, reference = programs_of("tanh RNN", ours)
    in_two = Candidate(
        None, {"W": problem.params.W, "U": problem.params.U, "b": (problem.params.b, problem.params.b)},
        lambda tree: problem.params._replace(W=tree["W"], U=tree["U"], b=tree["b"][0] + tree["b"][1]),
    )  # fmt: skip
    gradient = {"W": reference.W, "U": reference.U, "b": (reference.b, reference.b)}
    assert difference(in_two, gradient, reference) < 1e-6
    assert difference(in_two, gradient | {"b": (reference.b, 0 * reference.b)}, reference) > 0.9


def test_forward_program_returns_the_weighted_sum():
    problem = random_problem(CELLS["GRU"], SHAPE)
    program = forward_program(ours(problem), problem)
    ys = gj.unroll(problem.cell, problem.params, problem.xs)[1]
    assert float(program.call(*program.arguments)) == pytest.approx(float((ys * problem.weights).sum()), rel=1e-4)


@pytest.mark.parametrize(("name", "gates"), [("GRU", 3), ("GRU, reset after", 3), ("LSTM", 4), ("tanh RNN", 1)])
def test_floor_counts_the_matmuls(name, gates):
    T, B, D, H = SHAPE
    rows = T * B
    forward, weights, states = 2 * rows * (D + H) * gates * H, 2 * rows * (D + H) * gates * H, 2 * rows * H * gates * H
    problem = random_problem(CELLS[name], SHAPE)
    assert floor_flop(problem, recompute_gates=False) == forward + weights + states
    assert floor_flop(problem, recompute_gates=True) == 2 * forward + weights + states


def test_programs_take_turns_in_random_order_and_are_all_measured():
    calls = []
    names = ["one", "other", "third"]
    programs = {name: Program(lambda name=name: calls.append(name) or time.sleep(0.02), (), 1.0, 0.0) for name in names}
    found = interleaved(programs, 5)
    assert list(found) == names
    turns = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert all(sorted(turn) == names for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 2
    for measured in found.values():
        assert 0 < measured["ms_low"] <= measured["ms"] <= measured["ms_high"]
        assert measured["rounds"] == 5


def case(group, ms, mib, **more):
    measured = {name: {"ms": value, "temp_mib": mib[name], "compile_s": 1.0} for name, value in ms.items()}
    return {"group": group, "cell": "GRU", "shape": SHAPE, "measured": measured, "floor_gates_ms": 0.5} | more


def results():
    ms = {"ours": 1.0, "ours, states": 1.0, "ours, gates": 2.0, "autodiff": 4.0, "Haiku": 3.0, "Haiku, checkpointed": 2.0}
    mib = dict.fromkeys(ms, 8.0) | {"ours, states": 2.0, "Haiku, checkpointed": 1.0}
    slower = {name: 2 * value for name, value in ms.items()} | {"Haiku": 4.0, "Haiku, checkpointed": 16.0}
    devices = case("2 devices", {f"{way}: {name}": ms[name] for way in ("shard_map", "Auto jit") for name in ms}, {
        f"{way}: {name}": mib[name] for way in ("shard_map", "Auto jit") for name in mib
    })  # fmt: skip
    return {
        "matmul_gflops": 100.0,
        "cores": 2,
        "cases": [case("tiny", ms, mib), case("tiny", slower, mib)],
        "growth": {"T": [case("T", ms, mib)]},
        "passes": [case("forward", {name: ms[name] for name in ("ours", "Haiku")}, mib)],
        "devices": [devices],
        "variants": {"one block": {str(SHAPE): 0.97}},
        "around": {"a single step": {"ours": {"ms": 2.0}, "Equinox": {"ms": 3.0}}},
    }


def test_summary_has_means_and_worst_cases():
    found = report.summary(results())
    tiny = found["tiny, GRU"]
    assert tiny["autodiff_over_ours"] == {"mean": 4.0, "least": 4.0}
    assert tiny["fastest_over_ours"] == {
        "mean": 2.0,
        "least": 2.0,
    }  # the fastest is checkpointed in one case, plain in the other
    assert tiny["temp_states_over_leanest_plain"] == 0.25
    assert tiny["temp_states_over_leanest_checkpointed"] == 2.0
    assert tiny["fastest_checkpointed_over_states"] == 4.0
    assert tiny["time_over_floor"] == pytest.approx(np.sqrt(2 * 4), rel=1e-3)
    assert found["over T, fastest_over_ours"] == [2.0]
    assert found["forward, GRU, fastest_over_ours"] == {"mean": 3.0, "least": 3.0}
    assert found["devices, shard_map"]["fastest_over_ours"]["mean"] == 2.0
    assert found["a single step"] == {"Equinox": 1.5}


def test_summary_without_other_libraries_covers_ours_alone():
    found = results()
    alone = lambda case: (
        case
        | {"measured": {name: one for name, one in case["measured"].items() if "Haiku" not in name and "Equinox" not in name}}
    )
    for key in ("cases", "passes", "devices"):
        found[key] = [alone(case) for case in found[key]]
    found["growth"] = {"T": [alone(case) for case in found["growth"]["T"]]}
    summary = report.summary(found)
    assert summary["tiny, GRU"]["autodiff_over_ours"] == {"mean": 4.0, "least": 4.0}
    assert "fastest_over_ours" not in summary["tiny, GRU"]
    assert np.isnan(summary["devices, shard_map"]["fastest_over_ours"]["mean"])
    assert report.tables(found)


def test_tables_have_every_case():
    text = report.tables(results())
    assert text.count(str(SHAPE)) == 6  # two tiny cases, T, forward, devices, and the header of the variants
    assert "| one block | 0.97 |" in text
    assert "| Equinox | 3 |" in text
    for block in text.split("\n## ")[1:]:
        assert len({line.count("|") for line in block.splitlines() if line.startswith("|")}) == 1


def test_figure_draws_the_growth():
    (figure,) = report.draw(results()["growth"]).values()
    assert len(figure.axes) == 2


def test_problem_is_random_with_zero_reset_bias():
    problem = random_problem(CELLS["GRU, reset after"], SHAPE, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(problem.params)} == {jnp.dtype(jnp.bfloat16)}
    assert not problem.params.c_h.any()
    assert float(jnp.std(problem.params.b_z.astype(jnp.float32))) > 0.01


@pytest.mark.parametrize("quick", [True, False])
def test_the_time_of_the_engine_is_divided_by_that_of_each_variant(monkeypatch, quick):
    monkeypatch.setattr(benchmark.variants, "timed", lambda *arguments: {"as it is": {"ms": 3.0}, "variant": {"ms": 2.0}})
    found = benchmark.variants_of_the_engine(benchmark.BenchmarkOptions(quick=quick), rounds=1)
    assert set(found) == {"one block"} if quick else set(found) >= set(benchmark.variants.VARIANTS)
    assert {ratio for by_shape in found.values() for ratio in by_shape.values()} == {1.5}


@pytest.mark.slow
def test_each_rule_of_the_plan_changes_a_plan_and_is_measured():
    shapes = [*plan_rules.TUNED, *plan_rules.QUICK_SHAPES]
    for name, rule in plan_rules.RULES.items():
        drawn = plan_rules.draw_shapes(rule, 1, seed=0)
        assert [s for s in [*shapes, *drawn] if rule(plan_rules.plan_for(s), s) != plan_rules.plan_for(s)], name
    name, shape = "a small sequence is one block", Shape(13, 3, 2, 5)
    case = plan_rules.measure(name, "tuned", shape, "GRU", plan_rules.RuleOptions(quick=True))
    assert case["ratio"] == round(case["measured"]["without"]["ms"] / case["measured"]["with"]["ms"], 3)
    summary = plan_rules.summarize([case, case | {"shapes": "random", "ratio": 2.0}])
    assert summary[name] == {"tuned": case["ratio"], "random": 2.0} | {
        "least": min(case["ratio"], 2.0), "most": max(case["ratio"], 2.0), "cases": 2
    }  # fmt: skip
    assert "| a small sequence is one block |" in plan_rules.table(summary)
    assert len(plan_rules.draw([case]).axes) == 1
