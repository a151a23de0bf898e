"""Reads the published quad archive, unpacked: quad/<label>/dataset.npz and quad/holdout/<label>_holdout/dataset.npz.

Each file holds "images", [n, 3, 64, 64] or [n, 64, 64, 3], 0..255. Training labels: obs1, ivn_quad1 .. ivn_quad4,
ivn_size, ivn_orientation. Held-out labels: the same, or without "1" and "ivn_"; "quad1-quad2" or "quad1-2" for pairs.
Known defect: the held-out images of the published dependent set repeat the first training images.
"""

import logging
from pathlib import Path

import numpy as np

from causal_ctx.data import arrays, contexts

LOG = logging.getLogger(__name__)


def load(config, concepts: tuple[str, ...], compositions: tuple[str, ...]) -> contexts.ContextData:
    """The archive under `config.path` (the folder that holds quad/, or quad/ itself) as a data set without latents.

    At most `train_per_context` and `held_out_per_context` images are taken of each context. Raises FileNotFoundError
    naming every missing file, ValueError for damaged files and for images of another resolution.
    """
    folder = Path(config.path).expanduser()
    folder = folder / "quad" if (folder / "quad").is_dir() else folder
    singles = (contexts.OBSERVATIONAL, *concepts)
    train_files = {c: [folder / label for label in _labels(c)] for c in singles}
    held_out_files = {c: [folder / "holdout" / f"{label}_holdout" for label in _labels(c)] for c in singles + compositions}
    found = _existing([*train_files.values(), *held_out_files.values()])
    train = {c: _read(found[files[0]], config.train_per_context, config.resolution) for c, files in train_files.items()}
    held_out = {c: _read(found[files[0]], config.held_out_per_context, config.resolution) for c, files in held_out_files.items()}
    repeated = [c for c in singles if np.array_equal(train[c][0], held_out[c][0])]
    if repeated:
        LOG.warning("Held-out images of %s repeat training images; measures on them are optimistic.", ", ".join(repeated))
    return contexts.from_contexts(train, held_out, config.validation_fraction, config.seed, config.name)


def _labels(context: str) -> list[str]:
    """Spellings of a context in folder names, the documented one first."""
    names = contexts.interventions(context)
    if not names:
        return ["obs1", "obs"]
    if len(names) == 1:
        return [f"ivn_{context}", context]
    return ["-".join(names), "-".join([names[0], *(name.removeprefix("quad") for name in names[1:])])]


def _existing(spellings: list[list[Path]]) -> dict[Path, Path]:
    """The file that exists for each list of possible folders, by the first of them."""
    found, missing = {}, []
    for folders in spellings:
        files = [folder / "dataset.npz" for folder in folders if (folder / "dataset.npz").is_file()]
        if files:
            found[folders[0]] = files[0]
        else:
            missing.append(str(folders[0] / "dataset.npz"))
    if missing:
        raise FileNotFoundError(
            f"The archive lacks {', '.join(missing)}; set data.path to the folder that holds quad/, or leave it empty to generate the data."
        )
    return found


def _read(file: Path, count: int, resolution: int) -> np.ndarray:
    """The first `count` images of a file, uint8 [n, R, R, 3]."""
    images = arrays.read(file, "images")
    images = images[:count] if images.ndim == 4 else images
    if images.ndim == 4 and images.shape[1] == 3 and images.shape[3] != 3:
        images = images.transpose(0, 2, 3, 1)
    if images.shape[1:] != (resolution, resolution, 3) or not images.size:
        raise ValueError(
            f"{file} holds images of shape {images.shape}, not [n, {resolution}, {resolution}, 3]; set data.resolution to that of the archive."
        )
    if not (images.min() >= 0 and images.max() <= 255):
        raise ValueError(f"{file} holds values from {images.min()} to {images.max()}, outside 0..255; unpack the archive again.")
    return np.ascontiguousarray(np.round(images), np.uint8)
