"""Text files that are either old or new, never half."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Writes `text` to `path` whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)
