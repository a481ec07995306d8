"""Verifies custom VJPs against autodiff: `verify_vjp`, `assert_vjp`, `python -m gru_jax.verify`.

The public names are imported below. Five words recur in this package:

    rule         a custom derivative, attached with `jax.custom_vjp` or `jax.custom_jvp`
    primal       the function that a rule is attached to
    reference    the trusted function: by default the function to verify, without its rules
    leaf         one array of the arguments, for example params.U_h
    scale        the largest magnitude in a leaf's gradient, which relative errors refer to

To understand how a verification works, read the modules in this order:

    api                    verify_vjp and assert_vjp
    options, session       the options, and one run for each key
    prepare, verification  what all checks share
    arguments, function    the function to verify, as a function of real arrays
    reference, intended    the same function without its rules, or with an intended gradient
    precision              the precisions to run in
    programs               compiling equal programs once
    budget                 the time that a verification may take
    evaluation             the values and gradients of one run
    eager_run              one run without jit
    comparison             comparing two gradients leaf by leaf
    tolerances             how large rounding errors may be, estimated from the jaxpr
    rounding_noise         how large rounding errors are, measured
    own_rounding           the same for a rule that computes in a lower precision
    finite_differences     derivatives from values of the function
    directions             the same along a random direction in each leaf
    judgement, ties        whether a gradient that differs is wrong
    transformed            gradients under vmap, scan, checkpoint and shard_map
    blind_inputs           properties of inputs that hide faults
    run_checks, checks/    one function for each check
    likely_causes          what is probably wrong with a rule
    report, report_text    the result as an object, as text and as JSON

Only `cases`, which lists the built-in cells for the command line, imports the rest of gru_jax. The
other modules import only `gru_jax._jax`, which holds what differs between JAX versions.
"""

from gru_jax.verify.api import assert_vjp as assert_vjp
from gru_jax.verify.api import verify_vjp as verify_vjp
from gru_jax.verify.report import Check as Check
from gru_jax.verify.report import Report as Report
