"""Whether products that share an operand are taken as one matmul: the plan's decision, read by
`gru_jax.ops` while tracing.

One matmul of [W₁ W₂] takes half the time of two where the state is small, and more than two where
it is large. A cell should not have to know, so the engine sets it here around each call of a
cell's functions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_joined: ContextVar[bool] = ContextVar("joined", default=False)


@contextmanager
def joined_products(joined: bool) -> Iterator[None]:
    """Inside this context `gru_jax.ops` joins products that share an operand, or takes them one by one."""
    token = _joined.set(joined)
    try:
        yield
    finally:
        _joined.reset(token)


def products_are_joined() -> bool:
    """Whether products that share an operand are joined here. Outside the engine they are not."""
    return _joined.get()
