"""What a sequence has beside its inputs."""

from typing import Any, NamedTuple


class Conditions(NamedTuple):
    """Lengths, mask, resets and reset state of a sequence, as `gj.unroll` takes them."""

    lengths: Any = None
    mask: Any = None
    resets: Any = None
    reset_state: Any = None
