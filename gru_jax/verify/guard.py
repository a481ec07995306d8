"""Whether the checks can see: inputs that hide faults, and faults planted to be found."""

from collections.abc import Callable, Iterator

import numpy as np

from gru_jax.verify.compare import differences
from gru_jax.verify.numerical import probes
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check
from gru_jax.verify.subject import Arrays
from gru_jax.verify.trial import Trial

PLANTED = 1e-3
Fault = tuple[str, str, Callable[[Arrays], Arrays]]


def inputs(trial: Trial) -> Check:
    """Whether the inputs let a fault show: no constant leaf, no zero state, no leaf without influence."""
    blind = []
    for name, leaf in zip(trial.names, trial.leaves, strict=True):
        if leaf.size and not leaf.any():
            blind.append(f"{name} is zero: what is multiplied by it cannot be seen")
        elif leaf.size > 1 and (leaf == leaf.flat[0]).all():
            blind.append(f"{name} is constant: entries that are mixed up cannot be told apart")
    if not trial.why_no_reference:
        for name in zero_leaves(trial):
            blind.append(f"{name} has a zero gradient: a rule that forgets it cannot be told from a right one")
        for name in trial.drowned:
            blind.append(f"{name} has a gradient that is zero but for rounding: only what is larger than that can be seen")
    if blind:
        return Check("inputs", NOT_CHECKED, "; ".join(blind) + ". Pass random values", data={"blind": blind})
    influence = "" if trial.why_no_reference else ", and every leaf has influence"
    return Check("inputs", PASS, f"no leaf is constant or zero{influence}")


def zero_leaves(trial: Trial) -> list[str]:
    """Leaves whose reference gradient is zero under every random cotangent."""
    runs = [trial.expected(us).bars for us in trial.random_cotangents.values()]
    return [name for k, name in enumerate(trial.names) if runs[0][k].size and not any(run[k].any() for run in runs)]


def guard(trial: Trial) -> Check:
    """The checks see: faults planted in the reference's own gradient must be found, and there must be a rule to verify."""
    if trial.why_no_reference:
        return _numerical_guard(trial)
    if not trial.rules.replaced and trial.given_reference is None:
        kept = f"; JAX's own rules in it ({', '.join(trial.rules.kept)}) count as autodiff" if trial.rules.kept else ""
        text = f"no custom rule is called in it: autodiff was compared with itself{kept}. Pass the decorated function, or a reference"
        return Check("guard", FAIL, text)
    blind = {*zero_leaves(trial), *trial.drowned}
    missed, planted = [], 0
    everything = list(trial.random_cotangents.items())
    for name, fault, spoil in faults(trial):
        if name in blind or all(_same(spoil(trial.expected(us).bars), trial.expected(us).bars) for _, us in everything):
            continue  # nothing is changed by it
        planted += 1
        if not any(_seen(trial, spoil(trial.expected(us).bars), us, where) for where, us in everything):
            missed.append(f"{name} {fault}")
    if missed:
        coarse = f": the function computes in less than {trial.truth.name} inside, so the tolerance is {trial.allowed[0]:.1e}"
        why = f": rtol is {trial.rtol:g}" if trial.rtol >= PLANTED else coarse if trial.eps > trial.truth.eps else ""
        text = f"{len(missed)} of {planted} planted faults pass{why}: {', '.join(missed[:4])}"
        return Check("guard", NOT_CHECKED if why else FAIL, text, data={"missed": missed})
    return Check("guard", PASS, f"{planted} planted faults, all seen", data={"planted": planted})


def _numerical_guard(trial: Trial) -> Check:
    """Without a reference differences of values are the judge: would they see a gradient that is off by 0.1 %?"""
    found = probes(trial)
    missed = [name for name, probe in found.items() if PLANTED * abs(probe.derivative) <= probe.allowed(trial.rtol)]
    if missed:
        text = f"differences of values would not see a gradient that is off by {PLANTED:g} in {', '.join(missed)}"
        return Check("guard", NOT_CHECKED, text, data={"missed": missed})
    text = f"differences of values see each of {len(found)} leaves when it is off by {PLANTED:g}"
    return Check("guard", PASS, text, data={"planted": len(found)})


def _seen(trial: Trial, spoilt: Arrays, us: Arrays, where: str) -> bool:
    """Whether a planted fault is found. What rounding can do is measured only if thorough."""
    if trial.thorough:
        return bool(trial.judged(spoilt, us, where))
    return bool(differences(trial.names, spoilt, trial.expected(us).bars, trial.allowed, where))


def _same(one: Arrays, other: Arrays) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def faults(trial: Trial) -> Iterator[Fault]:
    """(leaf, what is wrong, function that plants it) of faults that must be seen."""
    shapes = [leaf.shape for leaf in trial.leaves]
    put = lambda k, change: lambda bars: (*bars[:k], change(bars[k]), *bars[k + 1 :])
    for k, name in enumerate(trial.names):
        yield name, f"times {1 + PLANTED:g}", put(k, lambda leaf: leaf * (1 + PLANTED))
        yield name, "zero", put(k, np.zeros_like)
        yield name, "with the other sign", put(k, np.negative)
        if len(shapes[k]) == 2 and shapes[k][0] == shapes[k][1] > 1:
            yield name, "transposed", put(k, np.transpose)
        for j in range(k):
            if shapes[j] == shapes[k]:
                yield name, f"swapped with {trial.names[j]}", _swap(j, k)


def _swap(j: int, k: int) -> Callable[[Arrays], Arrays]:
    def swap(bars: Arrays) -> Arrays:
        changed = list(bars)
        changed[j], changed[k] = bars[k], bars[j]
        return tuple(changed)

    return swap
