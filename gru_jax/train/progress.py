"""A progress bar with the loss, from tqdm where the user asks for one."""

from typing import Any


class _Silent:
    def update(self, steps: int) -> None: ...

    def set_postfix(self, **values: Any) -> None: ...

    def close(self) -> None: ...


def progress_bar(show: bool, total: int) -> Any:
    """A bar over `total` steps, or one that does nothing.

    Raises:
        ImportError: a bar is asked for and tqdm is not installed.
    """
    if not show:
        return _Silent()
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress: got True, expected tqdm to be installed. Run: pip install tqdm") from error
    return tqdm(total=total, unit="step")
