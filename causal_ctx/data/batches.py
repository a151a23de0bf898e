"""Which examples a step sees, as a pure function of (seed, step): nothing to save, nothing to lose.

Letters: R micro-batches, B examples per micro-batch, K concepts.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def draw(seed: int, step: int, sizes: Sequence[int], shape: tuple[int, int], one_context: bool) -> tuple[np.ndarray, np.ndarray]:
    """Contexts and example indices of one step, each int [R, B] for shape (R, B); `sizes` are the numbers of examples per context.

    Every micro-batch holds one uniformly drawn context (`one_context`), or every example draws its own.
    """
    rng = np.random.default_rng([seed, step])
    contexts = rng.integers(len(sizes), size=(shape[0], 1 if one_context else shape[1]))
    contexts = np.broadcast_to(contexts, shape)
    return contexts, (rng.random(shape) * np.asarray(sizes)[contexts]).astype(np.int64)


def gather(images: Mapping[str, np.ndarray], contexts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The images uint8 [..., H, W, C] at `contexts` and `indices`, both [...]; contexts count the keys of `images` in order."""
    arrays = list(images.values())
    out = np.empty((*contexts.shape, *arrays[0].shape[1:]), arrays[0].dtype)
    for context in np.unique(contexts):
        chosen = contexts == context
        out[chosen] = arrays[context][indices[chosen]]
    return out
