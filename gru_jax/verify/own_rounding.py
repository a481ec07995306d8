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
) -> tuple[str, ...]:
    """Returns the names of wrong leaves in which the rule's own rounding explains every error.

    Nothing decides about such a leaf: neither is the rule wrong there, nor is it right.
    """
    tolerances, names = verification.tolerances, verification.function.leaf_names
    if not wrong or tolerances.eps <= verification.precisions.comparison.eps:
        return ()
    noise = verification.noise_of_rule.of_gradients(cotangents, leaves)
    allowed = [np.fmax(own, rtol * s) for own, rtol, s in zip(noise, tolerances.of_leaves, leaf_scales(expected), strict=True)]
    found = {difference.leaf for difference in wrong}
    return tuple(
        name
        for name, a, b, limit in zip(names, got, expected, allowed, strict=True)
        if name in found and (entry_errors(a, b) <= limit).all()
    )
