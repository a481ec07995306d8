"""Decides about a rule that computes in a lower precision than the comparison.

Where 1 − tanh² has no digit left in bfloat16, a right rule returns 0. The rounding of the reference
does not explain that, but the rounding of the rule itself does.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gru_jax.verify.comparison import Difference, entry_errors, leaf_scales
from gru_jax.verify.function import Arrays

if TYPE_CHECKING:
    from gru_jax.verify.verification import Verification


def lost_in_own_rounding(
    verification: "Verification",
    wrong: Sequence[Difference],
    got: Arrays,
    expected: Arrays,
    cotangents: Arrays,
    leaves: Arrays,
    rtol: float | None = None,
) -> tuple[str, ...]:
    """Returns the names of the leaves of `wrong` in which the rule's own rounding explains every error.

    Relative errors up to `rtol` need no explanation. It defaults to the tolerance of each leaf.
    """
    tolerances, names = verification.tolerances, verification.function.leaf_names
    if not wrong or tolerances.eps <= verification.precisions.comparison.eps:
        return ()
    noise = verification.noise_of_rule.of_gradients(cotangents, leaves)
    rtols = tolerances.of_leaves if rtol is None else [rtol] * len(names)
    allowed = [np.fmax(own, r * scale) for own, r, scale in zip(noise, rtols, leaf_scales(expected), strict=True)]
    found = {difference.leaf for difference in wrong}
    return tuple(
        name
        for name, a, b, limit in zip(names, got, expected, allowed, strict=True)
        if name in found and (entry_errors(a, b) <= limit).all()
    )
