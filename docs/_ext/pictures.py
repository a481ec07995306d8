"""Warns about a tutorial without a computed picture, which a wrong backend of Matplotlib would cause silently."""

import re
from pathlib import Path
from typing import Any

from sphinx.util import logging

COMPUTED = re.compile(r'src="[^"]*_images/[0-9a-f]{64}\.(?:png|svg)"')  # named after their contents


def check(app: Any, exception: Exception | None) -> None:
    """Looks for a computed picture in the HTML of each tutorial."""
    if exception or app.builder.name != "html":
        return
    for path in sorted((Path(app.outdir) / "tutorials").glob("*.html")):
        if path.stem != "index" and not COMPUTED.search(path.read_text("utf-8")):
            logging.getLogger(__name__).warning("tutorials/%s has no computed picture", path.stem)


def setup(app: Any) -> dict[str, bool]:
    """Connects the extension."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
