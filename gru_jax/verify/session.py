"""Runs one call of `verify_vjp`: for each key, prepares a verification and runs its checks."""

import platform
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jaxlib
import numpy as np

from gru_jax._jax import config
from gru_jax.verify import budget
from gru_jax.verify.checks import FAST_CHECKS
from gru_jax.verify.comparison import root_mean_square
from gru_jax.verify.function import FlatFunction, flatten_function
from gru_jax.verify.options import Options
from gru_jax.verify.prepare import prepare_verification
from gru_jax.verify.report import FAIL, Check, Report
from gru_jax.verify.run_checks import OF_VALUES, choose_checks, merge, run_checks
from gru_jax.verify.verification import Verification

_OTHER_SAMPLES = 3  # the check `edges` uses so many samples besides the first


def run(fun: Callable[..., Any], args: tuple[Any, ...], options: Options) -> Report:
    """Runs the checks for every key, and returns the report."""
    keys = options.key[None] if jax.random.key_data(options.key).ndim == 1 else options.key
    thorough = not set(choose_checks(options.checks)) <= set(FAST_CHECKS)
    checks: Sequence[Check] = ()
    with budget.spend(options.seconds):
        for number, key in enumerate(keys):
            requested = options.checks if number == 0 else _of_values(options.checks)
            if not requested:
                break
            verification = _prepare(fun, args, options, key, thorough)
            if number == 0:
                first, seed, leaves = verification, _seed(key), verification.function.leaf_names
                allow = options.allowed(leaves)  # raises before any check runs
            results = run_checks(verification, requested, progress=options.progress)
            checks = merge(f"key {number}", checks, results) if number else results
    return Report(
        function=first.function.name,
        leaves=leaves,
        checks=tuple(checks),
        header=_header(first, seed, len(keys)),
        empty=tuple(name for name, leaf in zip(leaves, first.leaves, strict=True) if not leaf.size),
        allow=allow,
        require=options.require,
        call=options.call(first.function.name, _first_to_repeat(checks), seed),
    )


def _prepare(fun: Callable[..., Any], args: tuple[Any, ...], options: Options, key: jax.Array, thorough: bool) -> Verification:
    def flatten(args: tuple[Any, ...]) -> FlatFunction:
        return flatten_function(fun, args, options.kwargs, options.wrt, options.static)

    samples: list[FlatFunction] | None = None
    if options.sample is not None:
        if args:
            raise ValueError("pass args or sample, not both: sample draws the arguments")
        args = _drawn(options.sample, key)
        others = [_drawn(options.sample, jax.random.fold_in(key, k)) for k in range(_OTHER_SAMPLES)] if thorough else []
        samples = list(map(flatten, others))
    function = flatten(args)
    return prepare_verification(
        function,
        user_function=options.reference,
        user_gradient=options.gradient,
        rtols=options.rtols(function.leaf_names),
        seed=_seed(key),
        thorough=thorough,
        samples=samples,
    )


def _drawn(sample: Callable[[jax.Array], tuple[Any, ...]], key: jax.Array) -> tuple[Any, ...]:
    args = sample(key)
    if not isinstance(args, tuple):
        raise ValueError(f"sample must return a tuple of arguments, got {type(args).__name__}; write (x,) for one argument")
    return args


def _of_values(requested: Sequence[str]) -> list[str]:
    """Returns the requested checks that also run for further keys."""
    return [name for name in dict.fromkeys(choose_checks(requested)) if name in OF_VALUES]


def _seed(key: jax.Array) -> list[int]:
    return [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()]


def _first_to_repeat(checks: Sequence[Check]) -> str:
    """Returns the name of the first failed check, or "all"."""
    return next((check.name for check in checks if check.status == FAIL and check.name != "rule"), "all")


def _header(verification: Verification, seed: Sequence[int], keys: int) -> dict[str, Any]:
    """Returns how the verification was run: versions, device, settings, seed, rules and leaves."""
    flags = {flag: getattr(jax.config, flag, "absent") for flag in ("jax_custom_vjp3", "jax_remat3")}
    precisions, rules = verification.precisions, verification.reference.rules
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
        "keys": keys,
        "rules replaced in the reference": list(rules.replaced) or "none",
        "JAX's own rules kept": list(rules.kept) or "none",
        "compared in": precisions.comparison.name + (f" ({precisions.why_not_float64})" if precisions.why_not_float64 else ""),
        "leaves (root mean square)": {
            f"{name} {given.dtype}{list(given.shape)}": f"{root_mean_square(leaf):.2g}" for name, given, leaf in leaves
        },
    }
