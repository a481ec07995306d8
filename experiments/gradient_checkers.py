"""Which wrong backward passes do the usual checks of a gradient miss?

Eighty-six wrong GRU backward passes, forty-three for each place of the reset gate (experiments.mutants), and the two right ones. Every
checker gets each of them, at three kinds of input: ordinary (random weights, biases, h₀), saturated (the same, eight times as
large), and those of a hurried test (constant weights, h₀ = 0). The checkers:

    check_grads, float32 and float64   `jax.test_util.check_grads`, reverse mode, order 1, its default tolerances
    x̄ by ones                          the input's gradient against autodiff's, cotangents of ones, float32, 1e-3
    every leaf, by hand                `jnp.allclose` of every leaf to autodiff's, cotangents of ones on ys, float32, default tolerances
    gj.verify_vjp                      `checks="fast"`; what it reports as blind inputs is counted apart

Expectation: sums over all leaves and cotangents of ones miss what is small or cancels, and reject right rules that saturate; a
comparison leaf by leaf in float64 with random cotangents on every output misses nothing, and says which inputs hide faults.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.test_util import check_grads
from tqdm import tqdm

import gru_jax as gj
from experiments.common import Options, Outcome, main
from experiments.mutants.lines import FAULTS, with_fault
from experiments.mutants.passes import GRU_WHOLE, spoiled, unrolled

T, B, D, H = 5, 3, 4, 5
FORMS = {"gru": gj.gru(), "gru_reset_after": gj.gru(reset_after=True)}
Function = Callable[..., Any]


def problem(cell: gj.Cell, kind: str, seed: int) -> tuple[Any, ...]:
    """(params, xs, h0) in float64 whose values float32 can hold."""
    rng = np.random.default_rng(seed)
    scale = {"ordinary": 1.0, "saturated": 8.0, "hurried": 0.0}[kind]
    draw = lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32).astype(np.float64)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, H))
    weights = jax.tree.map(lambda leaf: jnp.asarray(scale * draw(leaf) / 2 if scale else np.full(leaf.shape, 0.1)), params)
    return weights, jnp.asarray(rng.standard_normal((T, B, D))), jnp.asarray(scale * rng.standard_normal((B, H)))


def single(args: Any) -> Any:
    """The same in float32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), args)


def passes_check_grads(fun: Function, args: Any, dtype: str) -> bool:
    """Whether `jax.test_util.check_grads` accepts."""
    try:
        check_grads(jax.jit(fun), args if dtype == "float64" else single(args), order=1, modes=["rev"])
    except AssertionError:
        return False
    return True


def gradients(fun: Function, args: Any) -> Any:
    """Cotangents of the arguments for ones on ys, float32."""
    return jax.jit(jax.grad(lambda *args: fun(*args)[1].sum(), (0, 1, 2)))(*single(args))


@cache
def autodiff(name: str, kind: str, seed: int) -> Any:
    """The right gradients of a form, for the two checks by hand."""
    return gradients(partial(gj.unroll, FORMS[name], derivative="autodiff"), problem(FORMS[name], kind, seed))


def judged(fun: Function, right: Any, args: Any) -> dict[str, str]:
    """What each checker says: "accepted", "rejected", or "accepted, inputs reported as blind"."""
    ours = gradients(fun, args)
    close = jax.tree.map(jnp.allclose, ours, right)
    report = gj.verify_vjp(fun, *single(args), checks="fast")
    blind = ", inputs reported as blind" if report["inputs"].status == "NOT CHECKED" else ""
    word = lambda passed: "accepted" if passed else "rejected"
    return {
        "check_grads, float32": word(passes_check_grads(fun, args, "float32")),
        "check_grads, float64": word(passes_check_grads(fun, args, "float64")),
        "x̄ by ones": word(bool(jnp.abs(ours[1] - right[1]).max() <= 1e-3)),
        "every leaf, by hand": word(all(map(bool, jax.tree.leaves(close)))),
        "gj.verify_vjp": f"accepted{blind}" if report.ok else "rejected",
    }


def candidates(name: str, quick: bool) -> dict[str, Function]:
    """The right backward pass of a form and the wrong ones."""
    cell = FORMS[name]
    lines = {fault: unrolled(with_fault(cell, line)) for fault, line in FAULTS[name].items()}
    passes = {fault: spoiled(unrolled(cell), **how) for fault, (how, _) in GRU_WHOLE.items()}
    wrong = lines | passes
    chosen = list(wrong)[::12] if quick else list(wrong)
    return {"right": unrolled(cell)} | {fault: wrong[fault] for fault in chosen}


def run(options: Options) -> Outcome:
    """The trial of the checkers."""
    verdicts: dict[str, dict[str, dict[str, str]]] = {kind: {} for kind in ("ordinary", "saturated", "hurried")}
    forms = list(FORMS)[:1] if options.quick else list(FORMS)
    tried = [(name, fault, fun) for name in forms for fault, fun in candidates(name, options.quick).items()]
    with jax.default_matmul_precision("highest"):
        for name, fault, fun in tqdm(tried, desc="backward passes", disable=None):
            for kind, found in verdicts.items():
                right = autodiff(name, kind, options.seed)
                found[f"{name}: {fault}"] = judged(fun, right, problem(FORMS[name], kind, options.seed))
    checkers = list(next(iter(verdicts["ordinary"].values())))
    wrong = lambda found: {name: said for name, said in found.items() if not name.endswith(": right")}
    missed = {
        kind: {c: sum(said[c].startswith("accepted") for said in wrong(found).values()) for c in checkers}
        for kind, found in verdicts.items()
    }
    unsaid = {
        kind: sum(said["gj.verify_vjp"] == "accepted" for said in wrong(found).values()) for kind, found in verdicts.items()
    }
    rejected = {
        kind: {c: sum(said[c] == "rejected" for name, said in found.items() if name.endswith(": right")) for c in checkers}
        for kind, found in verdicts.items()
    }
    summary = {
        "wrong": len(wrong(verdicts["ordinary"])),
        "missed": missed,
        "missed_by_verify_vjp_without_a_word": unsaid,
        "right": len(forms),
        "right_rejected": rejected,
    }
    results = {"verdicts": verdicts, "sizes": {"T": T, "B": B, "D": D, "H": H}}
    return Outcome(summary, results, {"missed.png": draw(summary)})


def draw(summary: dict[str, Any]) -> plt.Figure:
    """How many wrong passes each checker misses, by kind of input."""
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
