"""What a served page asks of its runs, as functions of a query: no sockets here, those are in `serve`.

    GET /                                                       the page, as it was at the start
    GET /api/about                                              JSON {"runs": [{"label", "folder", "seed", "system", "image_shape", ...}]}, in the order of the page: with
                                                                "concepts" (context) or "actions" and "images", the number of test images (transition)
    GET /api/samples?run=0&concept=a&concept=b&num=8&seed=0     PNG [H, num W]: `Run.generate`
    GET /api/actions?run=0&image=0&action=a+up&action=b+down    PNG [H, (1 + actions) W]: a test image, and `TransitionRun.chain` of it
    GET /api/retrieve?run=0&before=0&after=1                    JSON {action: probability}, the most probable first

Without run, num or seed a query gets run 0, eight images and seed 0; images are numbered as in `data.images["test"]`. What is wrong gets a status from 400 on
and JSON {"error": sentence}. Letters: n images, H, W, C image.
"""

import contextlib
import io
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from causal_ctx.data.contexts import as_uint8
from causal_ctx.methods import METHODS
from causal_ctx.reports import labels, reading
from causal_ctx.run import Run, TransitionRun, load_runs
from causal_ctx.workdir import WorkdirError

MOST_IMAGES, MOST_ACTIONS, MOST_SEED = 16, 8, 2**31 - 1
MOST_QUERY = 2_000  # characters
MOST_WAITING = 8  # computations, beside the one under way
STOP_SECONDS = 60.0  # in which it may end


class Answer(NamedTuple):
    """An HTTP status, a content type and a content."""

    status: int
    kind: str
    content: bytes


class Refused(Exception):
    """A request that gets an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status

    def answer(self) -> Answer:
        """The sentence as JSON."""
        return in_json({"error": str(self)}, self.status)


class Served:
    """What is shown: `page` and `about`, whole, and `runs`, of which one computes at a time."""

    def __init__(self, named: Sequence[tuple[str, Run | TransitionRun]], page: bytes, folder: Path):
        self.runs = [run for _, run in named]
        self.page, self.about = Answer(200, "text/html; charset=utf-8", page), in_json({"runs": [described(label, run, folder) for label, run in named]})
        self._places, self._computing = threading.BoundedSemaphore(1 + MOST_WAITING), threading.Lock()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Within, nothing else is computed. Raises Refused where MOST_WAITING wait already."""
        if not self._places.acquire(blocking=False):
            raise Refused(503, f"{MOST_WAITING} computations wait already; ask again in a moment.")
        try:
            with self._computing:
                yield
        finally:
            self._places.release()

    def end(self) -> None:
        """Waits for a computation under way, and lets no other begin: a process that ends within one would crash."""
        self._computing.acquire(timeout=STOP_SECONDS)


def load(workdir: Path) -> Served:
    """The page of `workdir` and its evaluated runs, in the order of the page, with data (once where runs have the same) and weights.

    Raises WorkdirError where there are no runs or no page, DamagedError for runs that cannot be read.
    """
    paths, page = reading.read_folder(workdir).evaluated, workdir / "report.html"
    if not paths:
        raise WorkdirError(f"{workdir} holds no evaluated run, nor do the folders directly below it; train one first.")
    if not page.exists():
        raise WorkdirError(f"{page} does not exist; write it first, with --mode=report --workdir={workdir}.")
    named = labels.labelled(load_runs(paths))
    for _, each in named:
        each.predictor  # noqa: B018, what is read when it is first asked for: now
    return Served(named, page.read_bytes(), workdir)


def described(label: str, run: Run | TransitionRun, folder: Path) -> dict:
    """What /api/about says of a run; its folder is told from `folder`, that of the page."""
    about = {"label": label, "folder": os.path.relpath(run.workdir, folder), "seed": run.config.seed, "system": METHODS[run.config.method].system, "image_shape": list(run.data.image_shape)}
    if isinstance(run, Run):
        return about | {"concepts": list(run.concepts)}
    return about | {"actions": list(known_actions(run)), "images": len(run.data.images["test"])}


def known_actions(run: TransitionRun) -> tuple[str, ...]:
    """The names of the actions that a run can do; a run of mcq_vae none."""
    return run.actions if run.predictor.transition is not None else ()


def samples(served: Served, query: dict[str, list[str]]) -> Answer:
    """Generated images under the named concepts."""
    run = _run(served, query, "context")
    concepts = _names(query, "concept", run.concepts)
    if len(set(concepts)) < len(concepts):
        raise Refused(400, f"The query names {len(concepts)} concepts, some of them twice; name each once.")
    num, seed = _number(query, "num", 1, MOST_IMAGES, 8), _number(query, "seed", 0, MOST_SEED, 0)
    with served.turn():
        images = run.generate(concepts, num, seed)
    return in_png(images, run)


def actions(served: Served, query: dict[str, list[str]]) -> Answer:
    """A test image, and what is expected after each of the named actions."""
    run = _run(served, query, "transition")
    names = _names(query, "action", known_actions(run))
    if len(names) > MOST_ACTIONS:
        raise Refused(400, f"The query names {len(names)} actions; give {MOST_ACTIONS} at most.")
    index = _image(run, query, "image")
    with served.turn():
        start = run.data.images["test"][index]
        after = [as_uint8("expected", images, run.data.image_shape) for images in run.chain(start, *names)]
    return in_png(np.concatenate([start, *after]), run)


def retrieve(served: Served, query: dict[str, list[str]]) -> Answer:
    """The probability of every action between two test images."""
    run = _run(served, query, "transition")
    if not known_actions(run):
        raise Refused(400, f"The run is of {run.config.method}, which knows no actions; ask one of ct_vae.")
    before, after = (_image(run, query, name) for name in ("before", "after"))
    with served.turn():
        _, probabilities = run.retrieve(run.data.images["test"][before], run.data.images["test"][after])
    return in_json(dict(sorted(zip(run.actions, probabilities[0].tolist()), key=lambda pair: -pair[1])))


ENDPOINTS = {  # {path: (what makes the answer, names in its query)}
    "/": (lambda served, _: served.page, ()),
    "/api/about": (lambda served, _: served.about, ()),
    "/api/samples": (samples, ("run", "concept", "num", "seed")),
    "/api/actions": (actions, ("run", "image", "action")),
    "/api/retrieve": (retrieve, ("run", "before", "after")),
}


def answer(served: Served, target: str) -> Answer:
    """The answer to GET `target`, a path with a query. Raises Refused."""
    path, _, text = target.partition("?")
    if path not in ENDPOINTS:
        raise Refused(404, f"There is nothing at {shown(path)}; there is {', '.join(ENDPOINTS)}.")
    if len(text) > MOST_QUERY:
        raise Refused(414, f"The query has {len(text):,} characters; give {MOST_QUERY:,} at most.")
    make, known = ENDPOINTS[path]
    try:
        fields = urllib.parse.parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        raise Refused(400, f"The query {shown(text)} is not written as name=value&name=value.") from None
    query: dict[str, list[str]] = {}
    for name, value in fields:
        query.setdefault(name, []).append(value)
    if unknown := [name for name in query if name not in known]:
        raise Refused(400, f"{path} knows no {shown(unknown[0])}; its query may hold {', '.join(known) or 'nothing'}.")
    return make(served, query)


def in_json(content: dict, status: int = 200) -> Answer:
    """An answer in JSON. Raises ValueError for numbers that are not finite, which JSON lacks."""
    return Answer(status, "application/json", json.dumps(content, allow_nan=False).encode())


def in_png(images: np.ndarray, run: Run | TransitionRun) -> Answer:
    """Images [n, H, W, C] of a run, uint8 or floating point in [0, 1], side by side: a PNG of H x n W pixels. Raises ValueError for any others."""
    strip, stream = np.concatenate(as_uint8("generated", images, run.data.image_shape), axis=1), io.BytesIO()
    Image.fromarray(strip[..., 0] if strip.shape[-1] == 1 else strip).save(stream, "PNG")
    return Answer(200, "image/png", stream.getvalue())


def _run(served: Served, query: dict[str, list[str]], system: str) -> Run | TransitionRun:
    run = served.runs[_number(query, "run", 0, len(served.runs) - 1, 0)]
    if METHODS[run.config.method].system != system:
        raise Refused(400, f"The run is of {run.config.method}; ask one whose system is {system}, see /api/about.")
    return run


def _image(run: TransitionRun, query: dict[str, list[str]], name: str) -> np.ndarray:
    return np.array([_number(query, name, 0, len(run.data.images["test"]) - 1)])


def _number(query: dict[str, list[str]], name: str, least: int, most: int, default: int | None = None) -> int:
    given = query.get(name, [] if default is None else [str(default)])
    if len(given) != 1 or not re.fullmatch("[0-9]{1,10}", given[0]) or not least <= int(given[0]) <= most:
        raise Refused(400, f"{name} is {' and '.join(map(shown, given[:2])) or 'missing'}; give one whole number from {least} to {most}.")
    return int(given[0])


def _names(query: dict[str, list[str]], kind: str, known: Sequence[str]) -> list[str]:
    if unknown := [name for name in query.get(kind, []) if name not in known]:
        raise Refused(400, f"The run knows no {kind} {shown(unknown[0])}; it knows {', '.join(known) or 'none'}.")
    return query.get(kind, [])


def shown(given: str) -> str:
    """What a client sent, quoted and cut, for a sentence or the log."""
    return ascii(given if len(given) <= 60 else given[:60] + "...")
