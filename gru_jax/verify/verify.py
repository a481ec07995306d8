"""`verify_vjp`: any function with a custom rule against autodiff of the same function without it."""

import platform
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jaxlib
import numpy as np

from gru_jax._jax import config
from gru_jax.verify import basic, eager, edges, guard, higher, numerical, precision, transforms
from gru_jax.verify.report import FAIL, NOT_CHECKED, Check, Report
from gru_jax.verify.subject import describe
from gru_jax.verify.trial import Trial, brief

FAST: dict[str, Callable[[Trial], Check]] = {
    "primal": basic.primal,
    "structure": eager.structure,
    "gradient": basic.gradient,
    "cotangents": basic.cotangents,
    "linearity": basic.linearity,
    "inputs": guard.inputs,
    "guard": guard.guard,
}
CHECKS: dict[str, Callable[[Trial], Check]] = FAST | {
    "native": precision.native,
    "numerical": numerical.numerical,
    "dot_product": higher.dot_product,
    "second_order": higher.second_order,
    "determinism": eager.determinism,
    "eager": eager.eager,
    "vmap": transforms.vmap,
    "scan": transforms.scan,
    "checkpoint": transforms.checkpoint,
    "shard_map": transforms.shard_map,
    "flags": transforms.flags,
    "edges": edges.edges,
}


def verify_vjp(
    fun: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | None = None,
    checks: str | Iterable[str] = "all",
    rtol: float | None = None,
    key: jax.Array | None = None,
) -> Report:
    """Whether the custom rules in `fun` give the gradient of `fun`, at `args`.

    The reference is autodiff of the same function with every custom rule in it, at any depth, replaced by its primal; of
    `reference` where that is given. Where there is none (a `while_loop` has no reverse mode) differences of values decide.

        primal        the forward rule returns what the function returns
        structure     type, shape, dtype and weak type of what the rule returns, in the dtypes given
        gradient      every leaf in float64, random cotangents on every output
        cotangents    each output's cotangent alone; ones; single entries
        linearity     bwd(0) = 0 and bwd(8u) = 8 bwd(u) bit for bit, bwd(u + v) = bwd(u) + bwd(v)
        inputs        whether these inputs let a fault show: no leaf constant, zero or without influence
        guard         planted faults are found, and there is a rule to verify
        native        in the dtypes given, against float64 and autodiff's own error
        numerical     central differences and Taylor's remainder, leaf by leaf: shares nothing with autodiff
        dot_product   <u, Jv> = <bwd(u), v>, v in one leaf at a time
        second_order  reverse over reverse, forward over reverse
        determinism   without `jit`: the same bits twice
        eager, vmap, scan, checkpoint, shard_map, flags      under JAX's transformations
        edges         zeros, saturation, overflow, NaN and infinity: finite where the reference is, equal where both are

    The tolerance is 8·√n·eps of a leaf's scale (its largest reference entry), n the longest sum that feeds a gradient; where it is
    exceeded, what rounding can do there is measured before the verdict (see `gru_jax.verify.rounding`). x64 need not be on, and is
    as it was afterwards.

    Args:
        fun: a function of pytrees that returns a pytree: decorated, jitted, a partial, a bound method.
        args: its arguments. Random values, all sizes different, show most; integers, booleans and anything else may be among them.
        reference: a function of the same arguments, trusted, in place of the primal.
        checks: "all"; "fast" (the first seven; the numerical one too where there is no reference); names; or "all" or "fast" and names
            with a minus: ("all", "-second_order").
        rtol: accepted relative error where it is more than rounding's, as for a solver of limited accuracy.
        key: of the random cotangents and directions; `jax.random.key(0)` by default.

    Returns:
        A `Report`: `ok`, printable, `to_json()`.

    Raises:
        ValueError, TypeError: nothing to differentiate, NaN in the arguments, an unknown check, a reference of other outputs; and
            whatever `fun` itself raises at `args`.

    Cost: "fast" compiles two programs, "all" some thirty; each runs a few dozen times. Equal programs are compiled once in a process.
    """
    asked = [checks] if isinstance(checks, str) else list(checks)
    names = _chosen(asked)
    if rtol is not None and not 0 <= rtol < 1:
        raise ValueError(f"rtol must be in [0, 1), got {rtol!r}; it is the relative error accepted of the rule")
    key = jax.random.key(0) if key is None else key
    seed = [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()]
    trial = Trial(fun, args, reference, rtol, seed, thorough=not set(names) <= set(FAST))
    if trial.why_no_reference and "fast" in asked and "-numerical" not in asked:
        names = [*names, "numerical"]
    return Report(describe(fun), trial.names, tuple(_run(trial, names)), _header(trial, seed))


def assert_vjp(fun: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Raises AssertionError with the report of `verify_vjp(fun, *args, **options)` where a check fails."""
    report = verify_vjp(fun, *args, **options)
    if not report.ok:
        raise AssertionError(str(report))


def _run(trial: Trial, names: list[str]) -> list[Check]:
    broken = _broken(trial)
    results = []
    for name in CHECKS:
        if name not in names:
            results.append(Check(name, NOT_CHECKED, "not asked for"))
        elif broken:
            results.append(
                Check(name, *((FAIL, broken) if name == "structure" else (NOT_CHECKED, "the rule raises, see structure")))
            )
        else:
            try:
                results.append(CHECKS[name](trial))
            except Exception as error:
                results.append(Check(name, FAIL, f"raises {brief(error)}"))
    if broken and "structure" not in names:
        results.append(Check("rule", FAIL, broken))
    return results


def _broken(trial: Trial) -> str:
    """What differentiating the function by its rule raises, if it does."""
    try:
        trial.rule(trial.cotangents)
    except Exception as error:
        return f"the rule raises {brief(error)}"
    return ""


def _chosen(asked: list[str]) -> list[str]:
    groups = {"all": list(CHECKS), "fast": list(FAST)}
    chosen: list[str] = []
    for name in asked:
        plain = name.removeprefix("-")
        if plain not in CHECKS and name not in groups:
            raise ValueError(
                f"checks: no check {name!r}; there are 'all', 'fast', {', '.join(CHECKS)}, and these with a minus to leave them out"
            )
        chosen = [kept for kept in chosen if kept != plain] if name != plain else chosen + groups.get(name, [name])
    if not chosen:
        raise ValueError(
            f"checks: nothing is left to check, got {asked!r}; to leave checks out name the others first: ('all', '-second_order')"
        )
    return chosen


def _header(trial: Trial, seed: list[int]) -> dict[str, Any]:
    flags = {flag: getattr(jax.config, flag, "absent") for flag in ("jax_custom_vjp3", "jax_remat3")}
    rms = lambda leaf: float(np.sqrt((leaf**2).mean())) if leaf.size else 0.0
    return {
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "numpy": np.__version__,
        },
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "settings": {"x64": config.x64(), "matmul precision in checks": "highest"} | flags,
        "seed": seed,
        "rules replaced in the reference": list(trial.rules.replaced) or "none",
        "JAX's own rules kept": list(trial.rules.kept) or "none",
        "truth": trial.truth.name + (f" ({trial.why_not_wide})" if trial.why_not_wide else ""),
        "leaves (root mean square)": {
            f"{name} {leaf.dtype}{list(leaf.shape)}": f"{rms(wide):.2g}"
            for name, leaf, wide in zip(trial.names, trial.subject.leaves, trial.leaves, strict=True)
        },
    }
