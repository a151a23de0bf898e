"""Files of a run: text that is either old or new, never half, and one error for what cannot be read back."""

import os
from pathlib import Path


class DamagedError(ValueError):
    """A file of a run that is missing or cannot be read; the message is one sentence for the user."""


def write_atomically(path: Path, text: str) -> None:
    """Writes `text` to `path` whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)
