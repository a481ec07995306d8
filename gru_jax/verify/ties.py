"""Decides about entries at ties, which are right alone and may be wrong together."""

from typing import TYPE_CHECKING

import numpy as np

from gru_jax.verify.comparison import Difference
from gru_jax.verify.function import Arrays

if TYPE_CHECKING:
    from gru_jax.verify.verification import Verification


def wrong_together(
    verification: "Verification",
    got: Arrays,
    expected: Arrays,
    cotangents: Arrays,
    condition: str,
    leaves: Arrays,
    exempt: list[np.ndarray],
) -> list[Difference]:
    """Returns the leaf with entries that are right alone, and wrong if they move together.

    For example, the maximum of two equal numbers has gradients (1, 0) and (1/2, 1/2), but not
    (1, 1). If all numbers grow by the same, the maximum has no kink.
    """
    at_tie = [k for k, mask in enumerate(exempt) if mask.any()]
    alone = [tuple(np.ones_like(mask) * (j == k) for j, mask in enumerate(exempt)) for k in at_tie]
    together = tuple(np.ones_like(mask) for mask in exempt)
    for group in (*alone, together):
        direction = tuple((mask & np.isfinite(leaf)).astype(np.float64) for mask, leaf in zip(group, leaves, strict=True))
        derivative = verification.derivative(direction, cotangents, leaves)
        by_rule, by_reference = (
            float(sum(gradient[v != 0].sum() for gradient, v in zip(gradients, direction, strict=True)))
            for gradients in (got, expected)
        )
        interval = derivative.interval
        if interval is None or derivative.has_kink or derivative.is_one_sided or interval[0] <= by_rule <= interval[1]:
            continue
        if interval[0] <= by_reference <= interval[1]:
            k = at_tie[0]
            size = derivative.size or 1.0
            return [
                Difference(
                    leaf=verification.function.leaf_names[k],
                    error=abs(by_rule - by_reference) / size,
                    allowed=(interval[1] - interval[0]) / size,
                    scale=size,
                    index=(),
                    value=by_rule,
                    expected=by_reference,
                    condition=f"{condition}, sum over all entries, some of which are at a tie",
                    by_differences=derivative.shown,
                )
            ]
    return []
