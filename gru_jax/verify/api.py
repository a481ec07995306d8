"""`verify_vjp` and `assert_vjp`: prepare a verification, run its checks, and report."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from gru_jax.verify.checks import ALL_CHECKS
from gru_jax.verify.options import Options
from gru_jax.verify.report import Report
from gru_jax.verify.session import run


def verify_vjp(
    fun: Callable[..., Any],
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    sample: Callable[[jax.Array], tuple[Any, ...]] | None = None,
    wrt: str | Iterable[str] | None = None,
    static: str | Iterable[str] = (),
    reference: Callable[..., Any] | None = None,
    gradient: Callable[..., Any] | None = None,
    checks: str | Iterable[str] = "all",
    require: str | Iterable[str] = (),
    allow: str | Iterable[str] = (),
    rtol: float | Mapping[str, float] | None = None,
    key: jax.Array | None = None,
    seconds: float | None = 120.0,
    progress: bool = False,
) -> Report:
    """Verifies that the custom rules in a function compute the right gradient.

    Compares the gradient of `fun` at `args` with autodiff of the same function without its custom
    rules, and with differences of its values. A rule (`jax.custom_vjp` or `jax.custom_jvp`) is found
    at any depth and replaced by the function that it is attached to. JAX's own rules, such as that
    of `jax.nn.relu`, are kept. The report names each wrong leaf, its error and the likely cause.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gru_jax as gj
        >>> square = jax.custom_vjp(lambda x: x**2)
        >>> square.defvjp(lambda x: (x**2, x), lambda x, u: (-2 * x * u,))
        >>> report = gj.verify_vjp(square, jnp.array([1.0, -0.5, 3.0]), checks="fast")
        >>> report.ok, report.verdict, report.wrong_leaves
        (False, 'WRONG GRADIENT', ('x',))
        >>> report["gradient"].differences[0].likely_cause
        'wrong sign'

    Args:
        fun: A function of pytrees that returns a pytree. It may be decorated, jitted, a partial or
            a bound method.
        *args: Its arguments. Random values and axes of different sizes reveal the most faults.
            Integers, booleans, keys, strings and other objects are passed to `fun`, and not
            differentiated. Entries of −inf or inf, as in a mask, are not moved.
        kwargs: Keyword arguments of `fun`.
        sample: A function that draws the arguments from a PRNG key, in place of `args`. Use it if
            the arguments must be positive, sorted or of unit norm: no others are then tried.
        wrt: Names of the arguments, or arrays in them, to differentiate. Defaults to all that are
            floating. The others are not moved.
        static: Names of arguments that JAX must not trace. Python numbers are static by default if
            they are integers.
        reference: A trusted function of the same arguments, whose autodiff gives the expected
            gradient. Defaults to `fun` without its rules.
        gradient: The intended gradient if it is not the derivative, as for a straight-through
            estimator: a function (args, cotangents) ↦ gradients, one for each argument.
        checks: "all", "fast", the name of a check, or a sequence of these. A minus before a name
            leaves that check out, as in ("all", "-second_order"). Defaults to "all".
        require: Names of checks that must pass. A rule that raises under `vmap` is right, unless
            "vmap" is required.
        allow: Names of arguments, or arrays in them, whose gradient may stay unchecked.
        rtol: Relative error to allow even if rounding cannot explain it, for example the tolerance
            of an iterative solver. One number, or a dict of them by argument. Defaults to 0.
        key: PRNG key for random cotangents and directions. Several keys, as from
            `jax.random.split`, repeat the checks of values. Defaults to `jax.random.key(0)`.
        seconds: Time for the checks. Once it is over, nothing more is compiled or run, and the
            remaining checks are NOT CHECKED. A compilation is not started if the longest so far
            took more time than is left. What has started is not interrupted, so the first
            compilation or a long run may exceed the time. Defaults to 120. None means no limit.
        progress: Whether to print each check to stderr when it is done. Defaults to False.

    Returns:
        A `Report`. `report.ok` is True if nothing is wrong and every leaf was checked.

    Raises:
        TypeError: If `fun` is not callable.
        ValueError: If no argument or no output is floating, an argument contains NaN, an option
            names an unknown check or argument, `rtol` is not in [0, 1), both `reference` and
            `gradient` are given, or the reference returns other shapes than `fun`.

    These are the checks. The first seven are the "fast" ones. bwd(u) is the gradient that the rule
    returns for the cotangent u:

    ============  ==================================================================================
    Check         What must hold
    ============  ==================================================================================
    primal        The forward rule returns what the function returns.
    structure     Cotangents and outputs have the right type, shape and dtype.
    gradient      Each leaf's gradient agrees with autodiff, in float64, for random cotangents.
    cotangents    The gradient also agrees if only one output has a cotangent.
    linearity     bwd(0) = 0, bwd(8u) = 8 bwd(u), and bwd(u + v) = bwd(u) + bwd(v).
    inputs        The inputs can reveal faults: no leaf is constant, zero or without influence.
    guard         The comparison finds planted faults.
    native        In the dtypes of the arguments, the rule is about as exact as autodiff.
    numerical     The gradient agrees with finite differences of the function's values.
    dot_product   <u, Jv> = <bwd(u), v>, with v in one leaf at a time. J is the Jacobian.
    second_order  Second derivatives agree: reverse over reverse, and forward over reverse.
    determinism   Without `jit`, a second run returns the same bits.
    eager         The gradient is the same with and without `jit`.
    vmap          The gradient of the vmapped function equals a loop over gradients.
    scan          The gradient of a scan, and a gradient taken in the body of a scan, are right.
    checkpoint    `jax.checkpoint` does not change the gradient.
    shard_map     The gradient is right on two devices.
    flags         `jax_custom_vjp3` and `jax_remat3` do not change the gradient.
    edges         At zeros, opposite signs and huge numbers, the gradient is right.
    ============  ==================================================================================

    If autodiff of the reference does not decide, for example because it contains a `while_loop` or
    because the function has no rule, "fast" also runs `numerical`, which then decides.

    Errors are relative to the largest entry of a leaf's gradient. An error of 8·√n·eps is allowed,
    where n is the length of the longest sum. A larger error is a fault only if it also exceeds the
    measured effect of rounding, and differences of values do not confirm the rule. At a kink, such
    as 0 for relu, every value between the derivatives on both sides is right. An error below the
    rounding of the arguments' dtype is a note. x64 may be off. Its setting is restored afterwards.

    Cost: "fast" compiles two programs and "all" about thirty. Each runs a few dozen times. Equal
    programs are compiled once.
    """
    if key is not None and not hasattr(key, "dtype"):
        raise TypeError(f"key must be a jax.random key such as jax.random.key(0), got {key!r}")
    options = Options(
        kwargs=dict(kwargs or {}),
        sample=sample,
        wrt=None if wrt is None else _names(wrt),
        static=_names(static),
        reference=reference,
        gradient=gradient,
        checks=_names(checks),
        require=_names(require),
        allow=_names(allow),
        rtol=rtol,
        key=jax.random.key(0) if key is None else key,
        seconds=seconds,
        progress=progress,
    )
    for name in options.require:
        if name not in ALL_CHECKS:
            raise ValueError(f"require must name checks, got {name!r}; the names are {', '.join(ALL_CHECKS)}")
    return run(fun, args, options)


def assert_vjp(fun: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Asserts that the custom rules in a function compute the right gradient. Use it in tests.

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
        AssertionError: If a gradient is wrong, or if a leaf that `allow` does not name was not
            checked. The message is the report.
    """
    report = verify_vjp(fun, *args, **options)
    if not report.ok:
        raise AssertionError(str(report))


def _names(names: str | Iterable[str]) -> tuple[str, ...]:
    if not isinstance(names, Iterable):
        raise TypeError(
            f"checks, wrt, static, require and allow must be names, got {names!r}; pass a string or a list of strings"
        )
    return (names,) if isinstance(names, str) else tuple(names)
