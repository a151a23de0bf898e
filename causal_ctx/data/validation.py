"""What is wrong with a data set, said before anything is trained on it: errors, with which no run makes sense, and warnings.

Letters: n images, H, W, C image.

Of large data sets `SAMPLE_BYTES` are looked at, the same share of every array: what repeats or is shared often is found, a single image may not be.
"""

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from causal_ctx.data import separation
from causal_ctx.data.contexts import OBSERVATIONAL, ContextData, targets
from causal_ctx.data.separation import Separation

SAMPLE_BYTES = 1 << 28
LEAST_HELD_OUT, FEW_HELD_OUT = 4, 64  # images: the floor compares two halves; below the second number measures are noise
LEAST_SIDE = 4  # pixels
LEAST_RANGE = 16  # of 256 levels
MOST_REPEATED = 0.05  # of the images of one context
MOST_SHARED = 0.01  # of a held-out composition, with the training images


class Problem(NamedTuple):
    """`level` is "error" (no run makes sense) or "warning"; `context` is "" where it is none's alone; `sentence` is whole, for the user."""

    level: str
    context: str
    sentence: str


def problems(dataset: ContextData, micro_batch: int = 1, measured: Separation | None = None) -> list[Problem]:
    """Everything that is wrong with `dataset` for micro-batches of `micro_batch` images, errors first; `measured` where distances are known already.

    Where names, shapes or types are wrong nothing else is looked at.
    """
    found = structure(dataset)
    if not found:
        samples = list(_samples(dataset))
        found = [*_counts(dataset, micro_batch), *_values(samples), *_shared(dataset, samples)]
        found += _indistinguishable(measured or separation.measure(dataset))
    return sorted(found, key=lambda problem: problem.level)


def fingerprint(dataset: ContextData, num: int = 8) -> str:
    """Changes with the names, counts and shapes of the data set, and with `num` images spread over each of its arrays."""
    digest = hashlib.blake2b(repr((dataset.name, dataset.concepts)).encode(), digest_size=8)
    for split, context, images in _arrays(dataset):
        digest.update(repr((split, context, np.shape(images), str(images.dtype))).encode())
        for row in np.linspace(0, len(images) - 1, num).astype(int) if len(images) else ():
            digest.update(np.ascontiguousarray(images[row]))
    return digest.hexdigest()


class _Sample(NamedTuple):
    """Some images uint8 [n, H, W, C] of one array, a `share` of it; `digests` are equal for equal images alone, `flat` bool [n] marks those of one value
    everywhere."""

    split: str
    context: str
    images: np.ndarray
    digests: list[bytes]
    flat: np.ndarray
    share: float


def _samples(dataset: ContextData) -> Iterator[_Sample]:
    arrays = list(_arrays(dataset))
    total = sum(images.nbytes for _, _, images in arrays)
    share = min(1.0, SAMPLE_BYTES / total)
    for seed, (split, context, images) in enumerate(arrays):
        images = separation.sample(images, math.ceil(share * len(images)), seed)
        rows = np.ascontiguousarray(images).reshape(len(images), -1)
        digests = [hashlib.blake2b(row, digest_size=12).digest() for row in rows]
        yield _Sample(split, context, images, digests, (rows == rows[:, :1]).all(1), share)


def _arrays(dataset: ContextData) -> Iterator[tuple[str, str, np.ndarray]]:
    """(split, context, images) of all three splits."""
    for split, contexts in (("training", dataset.train), ("validation", dataset.validation), ("held-out", dataset.held_out)):
        for context, images in contexts.items():
            yield split, context, images


def structure(dataset: ContextData) -> list[Problem]:
    """Wrong names, shapes and types, and arrays without any image: errors, with which the images cannot be looked at."""
    return list(_structure(dataset))


def _structure(dataset: ContextData) -> Iterator[Problem]:
    error = functools.partial(Problem, "error")
    if not dataset.concepts:
        yield error("", "The data set has no concept, so nothing can be intervened on; add the images of one intervention beside 'obs'.")
    for context in (OBSERVATIONAL, *dataset.concepts):
        for split, contexts in (("training", dataset.train), ("validation", dataset.validation)):
            if context not in contexts:
                yield error(context, f"Context {context!r} has no {split} images; add some.")
    arrays = list(_arrays(dataset))
    usual = Counter(images.shape[1:] for _, _, images in arrays).most_common(1)[0][0] if arrays else ()
    for split, context, images in arrays:
        images_of = f"The {split} images of context {context!r}"
        try:
            targets(context, dataset.concepts)
        except ValueError as unknown:
            yield error(context, str(unknown))
        if not len(images):
            yield error(context, f"Context {context!r} has no {split} images; add some.")
        elif images.shape[1:] != usual:
            yield error(context, f"{images_of} have shape {_by(images.shape[1:])}, others {_by(usual)}; give all the same.")
        if images.dtype != np.uint8:
            yield error(context, f"{images_of} are {images.dtype}, not uint8 in 0..255; convert them.")
    if len(usual) != 3 or min(usual[:2]) < LEAST_SIDE or usual[2] not in (1, 3):
        yield error("", f"Images have shape {_by(usual)}; give [H, W, C] of {LEAST_SIDE} x {LEAST_SIDE} pixels or more with 1 (grey) or 3 (RGB) channels.")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"


def _counts(dataset: ContextData, micro_batch: int) -> Iterator[Problem]:
    """Whether there are images enough."""
    for contexts, who in _named(context for context, images in dataset.train.items() if len(images) < micro_batch):
        number = min(len(dataset.train[context]) for context in contexts)
        yield Problem("warning", contexts[0], f"{who} trains on {number} images, fewer than a micro-batch of {micro_batch}, "
                      "so every one repeats some; give more or lower train.micro_batch.")
    for context, images in dataset.held_out.items():
        if len(images) < LEAST_HELD_OUT:
            remedy = f"the data floor compares two halves, so give at least {LEAST_HELD_OUT}"
            yield Problem("error", context, f"Context {context!r} has {len(images)} held-out images; {remedy}.")
    for contexts, who in _named(context for context, images in dataset.held_out.items() if LEAST_HELD_OUT <= len(images) < FEW_HELD_OUT):
        number = min(len(dataset.held_out[context]) for context in contexts)
        yield Problem("warning", contexts[0], f"{who} has {number} held-out images; measures on fewer than {FEW_HELD_OUT} are mostly noise.")
    if len(dataset.concepts) == 1:
        yield Problem("warning", "", f"The data set has one concept, {dataset.concepts[0]!r}; it trains, but there is nothing to compose.")


def _named(contexts: Iterable[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """One item (contexts, "Context 'a', as 2 others,") where there are any: one sentence for all."""
    if contexts := tuple(contexts):
        others = len(contexts) - 1
        yield contexts, f"Context {contexts[0]!r}" + (f", as {others} other{'s' * (others > 1)}," if others else "")


def _values(samples: list[_Sample]) -> Iterator[Problem]:
    """Range, images of one value, and images that repeat within a context; validation images come from the source of the training ones."""
    for split, context, images, digests, flat, _ in samples:
        if split == "validation":
            continue
        images_of, low, high, different = f"{split} images of context {context!r}", int(images.min()), int(images.max()), len(set(digests))
        if len(images) > 1 and different == 1:
            yield Problem("error", context, f"All {split} images of context {context!r} are the same; check how they were made.")
            continue
        if high <= 1:
            remedy = "multiply them by 255, or give them as floating point in [0, 1]"
            yield Problem("error", context, f"The {images_of} hold values from {low} to {high} as uint8, where white is 255; {remedy}.")
        elif high - low < LEAST_RANGE:
            yield Problem("warning", context, f"The {images_of} hold values from {low} to {high} alone; check that they are scaled to 0..255.")
        if len(images) - different > MOST_REPEATED * len(images):
            yield Problem("warning", context, f"Of {len(images):,} {images_of} only {different:,} differ; remove the repetitions.")
        if flat.mean() > MOST_REPEATED:
            yield Problem("warning", context, f"{flat.mean():.0%} of the {images_of} have one value everywhere; check how they were made.")


def _shared(dataset: ContextData, samples: list[_Sample]) -> Iterator[Problem]:
    """Images trained on that also validate or are held out; those of one value everywhere are not counted, since they repeat by chance."""
    own = lambda sample: [digest for digest, flat in zip(sample.digests, sample.flat) if not flat]
    trained = {digest: sample.context for sample in samples if sample.split == "training" for digest in own(sample)}
    for sample in samples:
        origins = Counter(trained[digest] for digest in own(sample) if digest in trained)
        if sample.split == "training" or not origins:
            continue
        # Of what is shared a sample of both sides shows the share of the training images that it holds.
        is_error = sample.context in dataset.compositions and origins.total() > MOST_SHARED * sample.share * len(sample.images)
        where = f"of the {len(sample.images):,} {sample.split} images looked at of context {sample.context!r}"
        remedy = "compositions must not be seen, so take them out" if is_error else "measures on them are optimistic, so take them out if you can"
        also = f"are also training images, of {', '.join(map(repr, origins))}"
        yield Problem("error" if is_error else "warning", sample.context, f"{origins.total():,} {where} {also}; {remedy}.")


def _indistinguishable(measured: Separation) -> Iterator[Problem]:
    """Contexts that cannot be told from "obs", or from one another although they can from "obs"."""
    numbers = lambda found: f"by {found.side} images each (sliced Wasserstein {found.distance:.4f}, p = {found.p_value:.2f})"
    for context, found in measured.from_obs.items():
        if not found.tells_apart:
            remedy = "check that its images are under the intervention, unless that hardly shows"
            yield Problem("warning", context, f"Context {context!r} cannot be told from 'obs' {numbers(found)}; {remedy}.")
    for (a, b), found in measured.nearest.items():
        if not found.tells_apart and any(measured.from_obs[context].tells_apart for context in (a, b)):
            yield Problem("warning", a, f"Contexts {a!r} and {b!r} cannot be told from each other {numbers(found)}; check that one is no copy of the other.")
