"""What the program says on stdout: lines for a person, nothing, or one JSON document for another program (--output)."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator

from causal_ctx import parallel
from causal_ctx.progress import Progress

KINDS = ("text", "quiet", "json")


@contextlib.contextmanager
def opened(kind: str) -> Iterator[Callable[[dict], None]]:
    """Within, what is printed for a person is seen where `kind` is "text", and bars on a terminal; what is logged is seen but for "quiet".

    Yields a function that takes the document of the program, seen where `kind` is "json". In a pod all processes do the same; process 0 tells of it.
    """
    first, stdout, Progress.bars = parallel.is_first_process(), sys.stdout, kind == "text"
    logging.getLogger("causal_ctx").setLevel(logging.INFO if first and kind != "quiet" else logging.WARNING)
    with contextlib.ExitStack() as stack:
        if not first or kind != "text":
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield lambda document: print(text(document), file=stdout) if first and kind == "json" else None


def text(document: dict) -> str:
    """The document as JSON that every program reads: numbers that are not finite, of which JSON knows none, are null."""
    return json.dumps(json.loads(json.dumps(document), parse_constant=lambda name: None), indent=2)
