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
    (1, 1). If both numbers grow, the maximum has no kink.
    """
    groups = [tuple(mask * (j == k) for j, mask in enumerate(exempt)) for k in range(len(exempt))]
    for group in (*groups, tuple(exempt)):
        direction = tuple(mask.astype(np.float64) for mask in group)
        if sum(int(mask.sum()) for mask in group) < 2:
            continue
        derivative = verification.derivative(direction, cotangents, leaves)
        by_rule, by_reference = (
            float(sum(gradient[mask].sum() for gradient, mask in zip(gradients, group, strict=True) if mask.any()))
            for gradients in (got, expected)
        )
        interval = derivative.interval
        if interval is None or derivative.has_kink or derivative.is_one_sided or interval[0] <= by_rule <= interval[1]:
            continue
        if interval[0] <= by_reference <= interval[1]:
            k = next(k for k, mask in enumerate(group) if mask.any())
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
                    condition=f"{condition}, sum over the entries that are at a kink or a tie",
                    by_differences=derivative.shown,
                )
            ]
    return []
