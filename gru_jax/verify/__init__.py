"""Any custom VJP against autodiff: `verify_vjp`, `assert_vjp`, `python -m gru_jax.verify`.

Reads from the function to the verdict: subject (a function of flat arrays), rules (the reference without them), evaluate (run and
compile once), rounding and compare (what differs by more than rounding), trial (what the checks share), the checks (basic, eager,
precision, numerical, higher, transforms, edges, guard), hints, report.
"""

from gru_jax.verify.report import Check as Check
from gru_jax.verify.report import Report as Report
from gru_jax.verify.verify import assert_vjp as assert_vjp
from gru_jax.verify.verify import verify_vjp as verify_vjp
