"""What an image shows of the true latents: a kernel ridge regression that is fitted to real images, and then reads generated ones.

Letters: n images, H, W, C image, V latents that are read.
"""

from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline

PRINCIPAL, LANDMARKS, RIDGE = 64, 1_000, 1e-3
MOST_IMAGES = 8_192  # that a probe is fitted to
READ_AT_ONCE = 1_024
SAMPLE = 500  # pairs whose median squared distance sets the width of the kernel


class Probe(NamedTuple):
    """A fitted regression from flattened images in [0, 1] to latents [n, V]."""

    regression: Pipeline

    def read(self, images: np.ndarray) -> np.ndarray:
        """Latents float64 [n, V] of images [n, H, W, C], uint8 or floating point in [0, 1]."""
        parts = (images[start : start + READ_AT_ONCE] for start in range(0, len(images), READ_AT_ONCE))
        return np.concatenate([self.regression.predict(_flat(np.asarray(part))) for part in parts]).astype(np.float64)


def fit_probe(images: np.ndarray, latents: np.ndarray, seed: int = 0) -> Probe:
    """A probe fitted to images uint8 [n, H, W, C] and their latents [n, V]: principal components, Gaussian kernel on landmarks among them, ridge regression.

    At most `MOST_IMAGES` random rows are used. Raises ValueError for other counts of images and latents, or fewer than 8 of them.
    """
    images, latents = np.asarray(images), np.asarray(latents, np.float64)
    if len(images) != len(latents) or len(images) < 8:
        raise ValueError(f"There are {len(images)} images and {len(latents)} rows of latents; give one row for each image, and at least 8.")
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(images))[:MOST_IMAGES]
    x = _flat(images[rows])
    some = x[: 2 * SAMPLE]
    apart = ((some[: len(some) // 2] - some[len(some) // 2 : 2 * (len(some) // 2)]) ** 2).sum(axis=1)
    kernel = Nystroem(gamma=1 / max(2 * float(np.median(apart)), 1e-6), n_components=min(LANDMARKS, len(x)), random_state=seed)
    principal = PCA(min(PRINCIPAL, len(x), x.shape[1]), svd_solver="randomized", iterated_power=2, random_state=seed)
    return Probe(make_pipeline(principal, kernel, Ridge(RIDGE)).fit(x, latents[rows]))


def explained(read: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Coefficient of determination [V] of what was read for what is true, [n, V] both: 1 is perfect, 0 no better than the mean."""
    return 1 - ((read - true) ** 2).mean(axis=0) / true.var(axis=0)


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / (255 if images.dtype == np.uint8 else 1)
