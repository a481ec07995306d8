"""Which wrong backward passes do the usual gradient checks miss?

There are 86 wrong GRU backward passes (`experiments.mutants`), 43 for the reset before the matmul
and 43 for the reset after it, and the two right ones. Every checker judges each of them at three
kinds of inputs: ordinary (random weights, biases and h₀), saturated (the same, eight times as
large), and hurried (constant weights and h₀ = 0, as in a test written in a hurry). The checkers
are:

    check_grads, float32 and float64   `jax.test_util.check_grads`, reverse mode, order 1
    x̄ alone                            the gradient of the inputs against autodiff, to 1e-3
    every leaf, allclose               `jnp.allclose` of every leaf to autodiff
    gj.verify_vjp                      `checks="fast"`

`x̄ alone` and `every leaf, allclose` use cotangents of ones in float32. All other tolerances are
the defaults. `gj.verify_vjp` reports inputs as blind if they hide faults. What it accepts at blind
inputs is counted separately.

Expectation: checks of a sum over all leaves, or with cotangents of ones, miss errors that are small
or cancel, and they reject right passes at saturated inputs. A comparison of each leaf in float64,
with random cotangents on every output, misses nothing except at inputs that it reports as blind.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.test_util import check_grads

import gru_jax as gj
from experiments.common import Options, Outcome, main, progress
from experiments.mutants.lines import FAULTS, with_fault
from experiments.mutants.passes import GRU_PASS_FAULTS, unrolled, with_faulty_rule

T, B, D, H = 5, 3, 4, 5
FORMS = {"gru": gj.gru(), "gru_reset_after": gj.gru(reset_after=True)}
Function = Callable[..., Any]


def problem(cell: gj.Cell, kind: str, seed: int) -> tuple[Any, ...]:
    """Returns (params, xs, h0) in float64, with values that float32 holds exactly."""
    rng = np.random.default_rng(seed)
    scale = {"ordinary": 1.0, "saturated": 8.0, "hurried": 0.0}[kind]
    draw = lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32).astype(np.float64)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, H))
    weights = jax.tree.map(lambda leaf: jnp.asarray(scale * draw(leaf) / 2 if scale else np.full(leaf.shape, 0.1)), params)
    return weights, jnp.asarray(rng.standard_normal((T, B, D))), jnp.asarray(scale * rng.standard_normal((B, H)))


def single(args: Any) -> Any:
    """Casts the arguments to float32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), args)


def passes_check_grads(fun: Function, args: Any, dtype: str) -> bool:
    """Returns whether `jax.test_util.check_grads` accepts the rule."""
    try:
        check_grads(jax.jit(fun), args if dtype == "float64" else single(args), order=1, modes=["rev"])
    except AssertionError:
        return False
    return True


def gradients(fun: Function, args: Any) -> Any:
    """Returns the gradients of sum(ys) in float32."""
    return jax.jit(jax.grad(lambda *args: fun(*args)[1].sum(), (0, 1, 2)))(*single(args))


@cache
def autodiff(name: str, kind: str, seed: int) -> Any:
    """Returns the right gradients of one form of the GRU in float32, by autodiff."""
    return gradients(partial(gj.unroll, FORMS[name], derivative=gj.Autodiff()), problem(FORMS[name], kind, seed))


def verdicts_of_checkers(fun: Function, right: Any, args: Any) -> dict[str, str]:
    """Returns the verdict of each checker on a backward pass.

    It is "accepted", "rejected", or "accepted, inputs reported as blind".
    """
    ours = gradients(fun, args)
    close = jax.tree.map(jnp.allclose, ours, right)
    report = gj.verify_vjp(fun, *single(args), checks="fast")
    blind = ", inputs reported as blind" if report["inputs"].status == "NOT CHECKED" else ""
    verdict = lambda passed: "accepted" if passed else "rejected"
    return {
        "check_grads, float32": verdict(passes_check_grads(fun, args, "float32")),
        "check_grads, float64": verdict(passes_check_grads(fun, args, "float64")),
        "x̄ alone": verdict(bool(jnp.abs(ours[1] - right[1]).max() <= 1e-3)),
        "every leaf, allclose": verdict(all(map(bool, jax.tree.leaves(close)))),
        "gj.verify_vjp": f"accepted{blind}" if report.ok else "rejected",
    }


def candidates(name: str, quick: bool) -> dict[str, Function]:
    """Returns the right backward pass of one form of the GRU and its wrong ones, by name."""
    cell = FORMS[name]
    lines = {fault: unrolled(with_fault(cell, line)) for fault, line in FAULTS[name].items()}
    passes = {fault: with_faulty_rule(unrolled(cell), **how.changes) for fault, how in GRU_PASS_FAULTS.items()}
    wrong = lines | passes
    chosen = list(wrong)[::12] if quick else list(wrong)
    return {"right": unrolled(cell)} | {fault: wrong[fault] for fault in chosen}


def run(options: Options) -> Outcome:
    """Runs every checker on every backward pass."""
    verdicts: dict[str, dict[str, dict[str, str]]] = {kind: {} for kind in ("ordinary", "saturated", "hurried")}
    forms = list(FORMS)[:1] if options.quick else list(FORMS)
    tried = [(name, fault, fun) for name in forms for fault, fun in candidates(name, options.quick).items()]
    with jax.default_matmul_precision("highest"):
        for name, fault, fun in progress(tried, "backward passes"):
            for kind, found in verdicts.items():
                right = autodiff(name, kind, options.seed)
                found[f"{name}: {fault}"] = verdicts_of_checkers(fun, right, problem(FORMS[name], kind, options.seed))
    checkers = list(next(iter(verdicts["ordinary"].values())))
    wrong = lambda found: {name: said for name, said in found.items() if not name.endswith(": right")}
    missed = {
        kind: {c: sum(said[c].startswith("accepted") for said in wrong(found).values()) for c in checkers}
        for kind, found in verdicts.items()
    }
    missed_silently = {
        kind: sum(said["gj.verify_vjp"] == "accepted" for said in wrong(found).values()) for kind, found in verdicts.items()
    }
    rejected = {
        kind: {c: sum(said[c] == "rejected" for name, said in found.items() if name.endswith(": right")) for c in checkers}
        for kind, found in verdicts.items()
    }
    summary = {
        "wrong": len(wrong(verdicts["ordinary"])),
        "missed": missed,
        "missed_by_verify_vjp_silently": missed_silently,
        "right": len(forms),
        "right_rejected": rejected,
    }
    results = {"verdicts": verdicts, "sizes": {"T": T, "B": B, "D": D, "H": H}}
    return Outcome(summary, results, {"missed.png": draw(summary)})


def draw(summary: dict[str, Any]) -> plt.Figure:
    """Plots how many wrong passes each checker accepts, by kind of input."""
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    kinds = list(summary["missed"])
    for i, kind in enumerate(kinds):
        counts = summary["missed"][kind]
        places = np.arange(len(counts)) + 0.26 * (i - 1)
        bars = axes.bar(places, list(counts.values()), 0.24, label=f"{kind} inputs")
        axes.bar_label(bars)
    axes.set_xticks(range(len(counts)), list(counts))
    axes.set(ylabel="accepted", title=f"wrong GRU backward passes that are accepted, of {summary['wrong']}")
    axes.legend()
    return figure


if __name__ == "__main__":
    main(run, x64=True)
