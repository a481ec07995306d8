"""Verifies custom VJPs against autodiff: `verify_vjp`, `assert_vjp`, `python -m gru_jax.verify`.

Public are the names below. To understand how a verification works, read the files in this order:

    api                    verify_vjp: chooses the checks, runs them, reports
    verification           what the checks share
    function               the function and its arguments, as a function of real arrays
    reference              the same function without its custom rules
    precision, programs    the precisions to run in; compiling once
    evaluation             values and gradients of one run
    comparison             two gradients, leaf by leaf
    tolerances             the error that rounding may cause, from the jaxpr
    rounding_noise         the error that rounding does cause, measured
    checks/                one function for each check
    likely_causes          what is probably wrong with a rule
    report                 the result, as an object, text and JSON

Only `cases`, the built-in cells for the command line, knows the rest of gru_jax. Otherwise this
package imports nothing from gru_jax but what differs between JAX versions.
"""

from gru_jax.verify.api import assert_vjp as assert_vjp
from gru_jax.verify.api import verify_vjp as verify_vjp
from gru_jax.verify.report import Check as Check
from gru_jax.verify.report import Report as Report
