"""Images grouped by context: the observational one, one per single-concept intervention, held-out compositions.

Letters: K concepts, n images, H height, W width, C channels.

A context is named "obs", by the concept that is intervened on ("light"), or by several joined with "+" ("light+pose",
a composition, never trained on).
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping

import numpy as np

OBSERVATIONAL = "obs"


@dataclasses.dataclass(frozen=True, eq=False)
class ContextData:
    """A data set of K concepts; every image array is uint8 [n, H, W, C], every latent array float64 [n, latents].

    name: of the data set.
    concepts: K names; the position of a name is its index in a target vector.
    train, validation: images of "obs" and of every single intervention.
    held_out: images of these contexts and of the compositions, for the measures only.
    train_latents, held_out_latents, validation_latents: rows aligned with `train`, `held_out`, `validation`, or None where the data has none.
    simulate: (any context, known or not, n) -> n images as held-out ones are drawn, for a held-out context exactly those; None where nothing can draw them.
    counterfactuals: (any context, n) -> n images whose row i has the same exogenous noise in every context; None as above. With a third argument
        True the own noise of the concepts intervened on is another, where there are `counterfactual_latents`, which take it too.
    counterfactual_latents: the latents [n, K] of the concepts behind `counterfactuals`; None where these are not known.
    concept_columns: the columns of a latent array that are the concepts, in their order; None without latents.
    total_effects: of the training contexts, how the noise of one concept (column) truly moves another (row), [K, K] each; None where that is not known.
    """

    name: str
    concepts: tuple[str, ...]
    train: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]
    train_latents: dict[str, np.ndarray] | None = None
    held_out_latents: dict[str, np.ndarray] | None = None
    simulate: Callable[[str, int], np.ndarray] | None = None
    counterfactuals: Callable[..., np.ndarray] | None = None
    validation_latents: dict[str, np.ndarray] | None = None
    counterfactual_latents: Callable[..., np.ndarray] | None = None
    concept_columns: tuple[int, ...] | None = None
    total_effects: dict[str, np.ndarray] | None = None

    def targets(self, context: str) -> np.ndarray:
        """Target vector of a context, uint8 [K]: zeros for "obs". Raises ValueError for an unknown concept."""
        return targets(context, self.concepts)

    @property
    def training_contexts(self) -> tuple[str, ...]:
        """"obs" and the single interventions, in the order of the concepts."""
        return tuple(self.train)

    @property
    def compositions(self) -> tuple[str, ...]:
        """Held-out contexts with two or more interventions."""
        return tuple(context for context in self.held_out if context not in self.train)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.train[OBSERVATIONAL].shape[1:]

    def concept_latents(self, latents: np.ndarray) -> np.ndarray:
        """Of rows of a latent array [n, latents] those columns that are the concepts, [n, K]."""
        return latents[:, self.concept_columns]

    @functools.cached_property
    def entropy_floor_bpp(self) -> dict[str, float]:
        """`entropy_floor_bpp` of the held-out images of each context; computed when first asked for."""
        return {context: entropy_floor_bpp(images) for context, images in self.held_out.items()}


def interventions(context: str) -> tuple[str, ...]:
    """Names of the concepts intervened on in a context: () for "obs", ("a", "b") for "a+b"."""
    return () if context == OBSERVATIONAL else tuple(context.split("+"))


def subsets(concepts: tuple[str, ...]) -> tuple[str, ...]:
    """Names of all 2^K contexts of the concepts: "obs", the single interventions, the pairs and so on."""
    sets = itertools.chain.from_iterable(itertools.combinations(concepts, size) for size in range(len(concepts) + 1))
    return tuple("+".join(names) or OBSERVATIONAL for names in sets)


def targets(context: str, concepts: tuple[str, ...]) -> np.ndarray:
    """Target vector of a context, uint8 [K] in the order of `concepts`. Raises ValueError for an unknown concept."""
    names = interventions(context)
    for name in names:
        if name not in concepts:
            raise ValueError(f"Context {context!r} names the unknown concept {name!r}; known are {', '.join(concepts)}, joined by '+'.")
    return np.array([concept in names for concept in concepts], np.uint8)


def training_rows(count: int, validation_fraction: float) -> int:
    """How many of `count` rows train; the others validate. Raises ValueError if either part would be empty."""
    rows = count - round(count * validation_fraction)
    if not 0 < rows < count:
        raise ValueError(
            f"A validation_fraction of {validation_fraction} leaves training or validation without an image of {count}; "
            "use a fraction inside (0, 1) or more images."
        )
    return rows


def entropy_floor_bpp(images: np.ndarray) -> float:
    """Smallest possible cross-entropy of images uint8 [n, H, W, C] as soft targets, in bits per pixel (spec section 6).

    Sum over channels of the binary entropy of value/255, mean over pixels and images. 0 for black-and-white images.
    """
    probability = np.arange(256) / 255
    bits = sum(-p * np.log2(p, where=p > 0, out=np.zeros(256)) for p in (probability, 1 - probability))
    rows = max(1, (1 << 22) // max(1, images[0].size))
    counts = sum(np.bincount(images[start : start + rows].reshape(-1), minlength=256) for start in range(0, len(images), rows))
    return float(counts @ bits / (images.size / images.shape[-1]))


def from_contexts(
    contexts: Mapping[str, np.ndarray],
    held_out: Mapping[str, np.ndarray] | None = None,
    validation_fraction: float = 0.3,
    seed: int = 0,
    name: str = "own",
) -> ContextData:
    """Own images as a data set: {"obs": x0, "light": x1, "pose": x2}, held_out={"light+pose": x3}.

    Images are [n, H, W, C], uint8 or floating point in [0, 1]. `contexts` holds "obs" and one entry per intervened
    concept; their order is the order of the concepts. Rows are shuffled by `seed` and split into training and
    validation. A context without held-out images of its own is measured on its validation images.
    Raises ValueError (one sentence) for a missing "obs", unknown concepts, a held-out context that is given twice or names a concept twice, unequal
    shapes, other types or values.
    """
    concepts = _concepts(contexts)
    shape = np.shape(contexts[OBSERVATIONAL])[1:]
    train, validation = {}, {}
    for index, (context, given) in enumerate(contexts.items()):
        images = as_uint8(context, given, shape)
        rows = training_rows(len(images), validation_fraction)
        order = np.random.default_rng([seed, index]).permutation(len(images))
        train[context], validation[context] = images[order[:rows]], images[order[rows:]]
    _check_held_out(held_out or {}, concepts)
    own = {context: as_uint8(context, given, shape) for context, given in (held_out or {}).items()}
    return ContextData(name, concepts, train, validation, {**validation, **own})


def _concepts(contexts: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    if OBSERVATIONAL not in contexts:
        raise ValueError(f"The observational images must be given as {OBSERVATIONAL!r}, got only {', '.join(map(repr, contexts)) or 'nothing'}.")
    concepts = tuple(context for context in contexts if context != OBSERVATIONAL)
    if not concepts:
        raise ValueError(f"At least one intervention is needed beside {OBSERVATIONAL!r}; add the images of one as {{'concept': images}}.")
    for concept in concepts:
        if "+" in concept:
            raise ValueError(f"Context {concept!r} is a composition, which is never trained on; pass it in held_out.")
    return concepts


def _check_held_out(held_out: Mapping[str, np.ndarray], concepts: tuple[str, ...]) -> None:
    """Every held-out context is a set of known concepts, and no two are the same set."""
    seen: dict[frozenset, str] = {}
    for context in held_out:
        targets(context, concepts)
        names = interventions(context)
        if len(set(names)) < len(names):
            raise ValueError(f"The held-out context {context!r} names an intervention twice; name each once.")
        other = seen.setdefault(frozenset(names), context)
        if other != context:
            raise ValueError(f"The held-out contexts {other!r} and {context!r} are the same interventions; keep one of them.")


def as_uint8(context: str, given: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Images [n, H, W, C] of `shape` (H, W, C), uint8 or floating point in [0, 1], as uint8. Raises ValueError, naming `context`, for any others."""
    images = np.asarray(given)
    if images.ndim != 4 or not images.size or images.shape[1:] != shape:
        raise ValueError(
            f"Images of context {context!r} must be [n, H, W, C] like those of 'obs', [n, {', '.join(map(str, shape))}], got {images.shape}."
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"Images of context {context!r} must be uint8 or floating point in [0, 1], got {images.dtype}; convert them.")
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"Floating point images of context {context!r} must lie in [0, 1], got {images.min():g} to {images.max():g}; rescale them."
        )
    return np.round(images * 255).astype(np.uint8)
