"""The options of `verify_vjp`, checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from gru_jax.verify.arguments import check_names, names_leaf


@dataclass(frozen=True)
class Options:
    """The options of one call of `verify_vjp`, which documents them.

    Raises:
        TypeError: If `reference`, `gradient` or `sample` is not a function.
        ValueError: If `rtol` is out of range, or two options contradict each other.
    """

    kwargs: dict[str, Any]
    sample: Callable[[jax.Array], tuple[Any, ...]] | None
    wrt: tuple[str, ...] | None
    static: tuple[str, ...]
    reference: Callable[..., Any] | None
    gradient: Callable[..., Any] | None
    checks: tuple[str, ...]
    require: tuple[str, ...]
    allow: tuple[str, ...]
    rtol: float | Mapping[str, float] | None
    key: jax.Array
    seconds: float | None
    progress: bool

    def __post_init__(self) -> None:
        for rtol in self.rtol.values() if isinstance(self.rtol, Mapping) else [self.rtol or 0.0]:
            if isinstance(rtol, str | bool) or not 0 <= rtol < 1:
                raise ValueError(f"rtol must be in [0, 1), got {rtol!r}; it is the relative error to allow")
        for name in ("reference", "gradient", "sample"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function, got {getattr(self, name)!r}")
        if self.reference is not None and self.gradient is not None:
            raise ValueError("pass reference or gradient, not both: each of them says what the gradient must be")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds must be positive or None, got {self.seconds!r}; it limits the time of the checks")

    def rtols(self, leaves: Sequence[str]) -> tuple[float, ...]:
        """Returns the relative error to allow in each leaf."""
        if not isinstance(self.rtol, Mapping):
            return (self.rtol or 0.0,) * len(leaves)
        check_names("rtol", tuple(self.rtol), leaves)
        return tuple(max((self.rtol[name] for name in self.rtol if names_leaf([name], leaf)), default=0.0) for leaf in leaves)

    def allowed(self, leaves: Sequence[str]) -> tuple[str, ...]:
        """Returns the names of the leaves that may stay unchecked."""
        check_names("allow", self.allow, leaves)
        return tuple(leaf for leaf in leaves if names_leaf(self.allow, leaf))

    def call(self, function: str, check: str, seed: Sequence[int]) -> str:
        """Returns the call that repeats one check."""
        words = [function, "*args" if self.sample is None else f"sample={_name(self.sample)}"]
        words += [f"{name}={_name(value)}" for name in ("reference", "gradient") if (value := getattr(self, name)) is not None]
        words += [f"{name}={value!r}" for name in ("wrt", "static", "rtol") if (value := getattr(self, name))]
        words += ["kwargs=kwargs"] if self.kwargs else []
        return f"gj.verify_vjp({', '.join([*words, f'checks={check!r}', f'key={_key(seed)}'])})"


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or getattr(function, "__name__", None) or repr(function)


def _key(seed: Sequence[int]) -> str:
    if len(seed) == 2 and seed[0] == 0:
        return f"jax.random.key({seed[1]})"
    return f"jax.random.wrap_key_data(jnp.array({list(seed)}, 'uint32'))"
