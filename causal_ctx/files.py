"""Files of a run: content that is either old or new, never half, and one error for what cannot be read back."""

import os
from pathlib import Path

from causal_ctx import parallel


class DamagedError(ValueError):
    """A file of a run that is missing or cannot be read; the message is one sentence for the user."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes `content`, text in UTF-8, to `path` whole or not at all. In a pod process 0 alone writes: what a run says of itself is the same in all."""
    if not parallel.is_first_process():
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)
