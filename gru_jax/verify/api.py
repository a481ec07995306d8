"""`verify_vjp` and `assert_vjp`: chooses the checks, runs them, and reports."""

import platform
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jaxlib
import numpy as np

from gru_jax._jax import config
from gru_jax.verify.checks import ALL_CHECKS, FAST_CHECKS
from gru_jax.verify.errors import short_message
from gru_jax.verify.report import FAIL, NOT_CHECKED, Check, Report
from gru_jax.verify.verification import Verification, prepare_verification


def verify_vjp(
    fun: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | None = None,
    checks: str | Iterable[str] = "all",
    rtol: float | None = None,
    key: jax.Array | None = None,
) -> Report:
    """Verifies that the custom rules in a function compute the right gradient.

    Compares `fun` at `args` with autodiff of the same function, in which every custom rule, at any
    depth, is replaced by its primal. The report names each wrong leaf, its error and the likely
    cause.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gru_jax as gj
        >>> square = jax.custom_vjp(lambda x: x**2)
        >>> square.defvjp(lambda x: (x**2, x), lambda x, u: (-2 * x * u,))
        >>> report = gj.verify_vjp(square, jnp.array([1.0, -0.5, 3.0]), checks="fast")
        >>> report.ok, report.wrong_leaves
        (False, ('x',))
        >>> report["gradient"].differences[0].likely_cause
        'the sign'

    Args:
        fun: A function of pytrees that returns a pytree. It may be decorated, jitted, a partial or
            a bound method.
        *args: Its arguments. Random values with axes of different sizes hide the fewest faults.
            Integers, booleans, keys, strings and other objects are passed on, and not
            differentiated.
        reference: A trusted function of the same arguments, whose autodiff to compare with.
            Defaults to `fun` without its rules.
        checks: "all"; "fast"; the name of a check; or several names, of which those with a minus
            are left out, such as ("all", "-second_order"). Defaults to "all".
        rtol: The relative error to allow if it is larger than that of rounding, for example for a
            solver of limited accuracy. Defaults to rounding alone.
        key: PRNG key for random cotangents and directions. Defaults to `jax.random.key(0)`.

    Returns:
        A `Report`. `report.ok` tells whether no check failed.

    Raises:
        TypeError: If `fun` is not callable.
        ValueError: If no argument or output is floating, an argument is not finite, a check is
            unknown, `rtol` is not in [0, 1), or the reference returns other shapes than `fun`.

    The checks, of which "fast" are the first seven:

    ============  ==================================================================================
    Check         What must hold
    ============  ==================================================================================
    primal        The forward rule returns what the function returns.
    structure     Cotangents and outputs have the right type, shape, dtype and weak type.
    gradient      Every leaf agrees in float64, for random cotangents on every output.
    cotangents    The gradient agrees for the cotangent of each output alone.
    linearity     bwd(0) = 0 and bwd(8u) = 8 bwd(u) bit for bit, and bwd(u + v) = bwd(u) + bwd(v).
    inputs        The inputs let a fault show: no leaf is constant, zero or without influence.
    guard         There is a rule to verify, and planted faults are found.
    native        The gradient agrees in the dtypes given, relative to autodiff's own error.
    numerical     The gradient agrees with differences of the function's values.
    dot_product   <u, Jv> = <bwd(u), v>, with v in one leaf at a time.
    second_order  Reverse over reverse and forward over reverse agree.
    determinism   Without `jit`, a second run gives the same bits.
    eager         The gradient without `jit` is that with `jit`.
    vmap          A batched gradient is a loop over gradients.
    scan          The gradient of a scan, and in the body of a scan, is right.
    checkpoint    `jax.checkpoint` does not change the gradient.
    shard_map     A gradient on two devices is right.
    flags         `jax_custom_vjp3` and `jax_remat3` do not change the gradient.
    edges         At zeros, huge numbers, NaN and infinity, the gradient agrees with autodiff's.
    ============  ==================================================================================

    If the reference has no reverse mode, as with a `while_loop`, "fast" also runs `numerical`,
    which then decides. The tolerance is 8·√n·eps of the largest entry of a leaf, where n is the
    length of the longest sum. Before a larger error counts, the effect of rounding is measured. x64
    need not be on, and its setting is unchanged afterwards.

    Cost: "fast" compiles two programs and "all" about thirty. Each runs a few dozen times. Equal
    programs are compiled once.
    """
    requested = [checks] if isinstance(checks, str) else list(checks)
    names = _choose_checks(requested)
    if rtol is not None and not 0 <= rtol < 1:
        raise ValueError(f"rtol must be in [0, 1), got {rtol!r}; it is the relative error to allow")
    key = jax.random.key(0) if key is None else key
    seed = [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()]
    thorough = not set(names) <= set(FAST_CHECKS)
    verification = prepare_verification(fun, args, user_function=reference, rtol=rtol, seed=seed, thorough=thorough)
    if verification.reference.why_no_gradient and "fast" in requested and "-numerical" not in requested:
        names = [*names, "numerical"]
    return Report(
        function=verification.function.name,
        leaves=verification.function.leaf_names,
        checks=tuple(_run_checks(verification, names)),
        header=_header(verification, seed),
    )


def assert_vjp(fun: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Asserts that the custom rules in a function compute the right gradient. For test suites.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gru_jax as gj
        >>> square = jax.custom_vjp(lambda x: x**2)
        >>> square.defvjp(lambda x: (x**2, x), lambda x, u: (2 * x * u,))
        >>> gj.assert_vjp(square, jnp.array([1.0, -0.5, 3.0]), checks="fast")

    Args:
        fun: A function of pytrees that returns a pytree.
        *args: Its arguments.
        **options: Options of `verify_vjp`.

    Raises:
        AssertionError: If a check fails. The message is the report.
    """
    report = verify_vjp(fun, *args, **options)
    if not report.ok:
        raise AssertionError(str(report))


def _run_checks(verification: Verification, names: Sequence[str]) -> list[Check]:
    """Runs the named checks.

    If the rule raises, only `structure` fails, or a check `rule` if `structure` was not requested.
    """
    failure = _rule_failure(verification)
    results = []
    for name, check in ALL_CHECKS.items():
        if name not in names:
            results.append(Check(name, NOT_CHECKED, "not requested", requested=False))
        elif failure and name == "structure":
            results.append(Check(name, FAIL, failure))
        elif failure:
            results.append(Check(name, NOT_CHECKED, "the rule raises"))
        else:
            try:
                results.append(check(verification))
            except Exception as error:
                results.append(Check(name, FAIL, f"raises {short_message(error)}"))
    if failure and "structure" not in names:
        results.append(Check("rule", FAIL, failure))
    return results


def _rule_failure(verification: Verification) -> str:
    """Returns what the rule raises. Empty if it runs."""
    try:
        verification.rule(verification.cotangents)
    except Exception as error:
        return f"the rule raises {short_message(error)}"
    return ""


def _choose_checks(requested: Sequence[str]) -> list[str]:
    """Returns the names of the checks to run."""
    groups = {"all": list(ALL_CHECKS), "fast": list(FAST_CHECKS)}
    chosen: list[str] = []
    for name in requested:
        plain = name.removeprefix("-")
        if plain not in ALL_CHECKS and name not in groups:
            raise ValueError(
                f"checks must be 'all', 'fast' or names of checks, got {name!r}; "
                f"the names are {', '.join(ALL_CHECKS)}, and a minus before a name leaves it out"
            )
        chosen = [other for other in chosen if other != plain] if name != plain else chosen + groups.get(name, [name])
    if not chosen:
        raise ValueError(
            f"checks must leave a check to run, got {requested!r}; "
            "name a group before the checks to leave out, as in ('all', '-second_order')"
        )
    return chosen


def _header(verification: Verification, seed: Sequence[int]) -> dict[str, Any]:
    flags = {flag: getattr(jax.config, flag, "absent") for flag in ("jax_custom_vjp3", "jax_remat3")}
    precisions, rules = verification.precisions, verification.reference.rules
    rms = lambda leaf: float(np.sqrt((leaf**2).mean())) if leaf.size else 0.0
    leaves = zip(verification.function.leaf_names, verification.function.leaves, verification.leaves, strict=True)
    return {
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "numpy": np.__version__,
        },
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "settings": {"x64": config.x64(), "matmul precision in checks": "highest"} | flags,
        "seed": list(seed),
        "rules replaced in the reference": list(rules.replaced) or "none",
        "JAX's own rules kept": list(rules.kept) or "none",
        "compared in": precisions.comparison.name + (f" ({precisions.why_not_float64})" if precisions.why_not_float64 else ""),
        "leaves (root mean square)": {
            f"{name} {given.dtype}{list(given.shape)}": f"{rms(leaf):.2g}" for name, given, leaf in leaves
        },
    }
