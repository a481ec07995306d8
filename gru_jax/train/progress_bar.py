"""A progress bar that shows the loss, drawn by tqdm if the user asks for it."""

from typing import Any


class _NoBar:
    """Accepts the calls of a progress bar and shows nothing."""

    def update(self, steps: int) -> None: ...

    def set_postfix(self, **values: Any) -> None: ...

    def close(self) -> None: ...


def progress_bar(*, show: bool, total: int) -> Any:
    """Makes a progress bar over `total` steps. If `show` is False, it shows nothing.

    Raises:
        ImportError: If `show` is True and tqdm is not installed.
    """
    if not show:
        return _NoBar()
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress: got True, expected tqdm to be installed. Run: pip install tqdm") from error
    return tqdm(total=total, unit="step")
