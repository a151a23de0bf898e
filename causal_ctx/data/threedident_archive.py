"""Reads the published 3DIdent archive, a folder or 3dident.zip, which is unpacked into the cache, and writes that layout.

    3DIdent_Concepts/{obs,bg,obj,sl}/images/000.png ..              raw_latents.npy beside images/: [images, 10], row i of the i-th name
    3DIdent_Concepts_ood/dataset/{bg-obj,bg-sl,obj-sl}/images/000.png ..

As published (spec, datasets.md section 3.1): of every context the sorted names are shuffled, by one stream over all contexts with the published seed; the
first 70 % train and validate, the others are held out; of the pairs only the held-out part is used. That the stream is Python's `random` is inferred.
"""

import functools
import hashlib
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from causal_ctx.data import arrays, cache, contexts, images, unpack
from causal_ctx.data.threedident_renderer import LATENTS

SHUFFLE_SEED, TRAINING_SHARE = 131223, 0.7
READER_VERSION = 1  # part of the cache's name: raise it whenever the same files would give other images
_LIMIT_BYTES = 100 << 30  # of an unpacked zip: far more than a published set of small pictures


class _Context(NamedTuple):
    """Files of a context."""

    folder: str
    names: tuple[str, ...]  # sorted, relative to folder/images
    latents: np.ndarray | None  # float64 [names, 10]


def load(config, concepts: tuple[str, ...], compositions: tuple[str, ...]) -> contexts.ContextData:
    """The archive at `config.path` resized to `config.resolution`, from the disk cache where the same files were decoded before.

    At most `train_per_context` and `held_out_per_context` images are taken of each context. Latents are raw_latents.npy where every context of a split has
    one, else None. Raises FileNotFoundError naming every missing folder, ValueError for damaged files.
    """
    singles = (contexts.OBSERVATIONAL, *concepts)
    root = _open(Path(config.path).expanduser(), config.cache_dir)
    found, fingerprint = _contexts(root, singles + compositions, config.path)
    rows = {"train": {}, "held_out": {}}
    for context, (pool, held_out) in _split({c: len(found[c].names) for c in found}).items():
        if context in singles:
            rows["train"][context] = pool[: config.train_per_context]
        rows["held_out"][context] = held_out[: config.held_out_per_context]
    kept = {c: contexts.training_rows(len(r), config.validation_fraction) for c, r in rows["train"].items()}
    decoded = _cached_images(config, root, found, rows, fingerprint)
    latents = {split: _latents(found, chosen) for split, chosen in rows.items()}
    return contexts.ContextData(
        name=config.name,
        concepts=concepts,
        train={c: decoded["train", c][:k] for c, k in kept.items()},
        validation={c: decoded["train", c][k:] for c, k in kept.items()},
        held_out={c: decoded["held_out", c] for c in rows["held_out"]},
        train_latents=latents["train"] and {c: latents["train"][c][:k] for c, k in kept.items()},
        validation_latents=latents["train"] and {c: latents["train"][c][k:] for c, k in kept.items()},
        held_out_latents=latents["held_out"],
    )


def write_archive(folder: Path, images: Mapping[str, np.ndarray], latents: Mapping[str, np.ndarray] | None = None) -> None:
    """Writes images uint8 [n, H, W, 3] and raw latents [n, 10] of contexts ("obs", "bg", "bg+obj") in the published layout into `folder`."""
    for context, pictures in images.items():
        place = Path(folder, _folder(context))
        (place / "images").mkdir(parents=True)
        digits = int(math.log10(len(pictures) - 1)) + 1 if len(pictures) > 1 else 1
        for index, picture in enumerate(pictures):
            Image.fromarray(picture).save(place / "images" / f"{index:0{digits}d}.png")
        if latents and context in latents:
            np.save(place / "raw_latents.npy", latents[context])


def _folder(context: str) -> str:
    names = contexts.interventions(context)
    return f"3DIdent_Concepts_ood/dataset/{'-'.join(names)}" if len(names) > 1 else f"3DIdent_Concepts/{context}"


def _open(path: Path, cache_dir: str) -> Path:
    """The folder that holds 3DIdent_Concepts: `path`, what it unpacks to, or one folder deeper in either."""
    if path.is_file():
        path = unpack.unpacked(path, cache_dir, _LIMIT_BYTES)
    if not path.is_dir():
        raise FileNotFoundError(f"data.path is {path}, which does not exist; give the folder that holds 3DIdent_Concepts, or the zip file.")
    root = path.parent if path.name == "3DIdent_Concepts" else path
    inner = [root, *(place for place in root.iterdir() if place.is_dir())]
    return next((place for place in inner if (place / "3DIdent_Concepts").is_dir()), root)


def _contexts(root: Path, names: tuple[str, ...], path: str) -> tuple[dict[str, _Context], str]:
    """Every context's files; and a fingerprint of names, sizes and times, which changes with the files."""
    found, missing, stamps = {}, [], []
    for context in names:
        folder = root.joinpath(_folder(context))
        pictures = folder / "images"
        files = sorted((f for f in pictures.iterdir() if _is_picture(f.name)), key=lambda f: f.name) if pictures.is_dir() else []
        if not files:
            missing.append(f"{_folder(context)}/images/*.png")
            continue
        latents = folder / "raw_latents.npy"
        stamps += [(context, f.name, *cache.stamp(f)) for f in [*files, *([latents] if latents.is_file() else [])]]
        found[context] = _Context(_folder(context), tuple(f.name for f in files), _read_latents(latents, len(files)))
    if missing:
        raise FileNotFoundError(f"{path} lacks {', '.join(missing)}; set data.path to the folder that holds 3DIdent_Concepts, or to the zip file.")
    return found, hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:12]


def _is_picture(name: str) -> bool:
    return name.lower().endswith(".png") and not name.startswith(".")


def _read_latents(file: Path, count: int) -> np.ndarray | None:
    """Raw latents float64 [count, 10] of a file, None where there is none."""
    if not file.is_file():
        return None
    latents = arrays.read(file, "raw_latents", count * len(LATENTS) * 8 + 4096)
    if latents.shape != (count, len(LATENTS)) or not np.isfinite(latents).all():
        what = f"{latents.dtype} of shape {latents.shape}, not [{count}, {len(LATENTS)}] finite numbers, one row per image"
        raise ValueError(f"{file} holds {what}; unpack the archive again, or remove the file.")
    return latents.astype(np.float64)


def _split(counts: Mapping[str, int]) -> dict[str, tuple[list[int], list[int]]]:
    """Positions in the sorted names of every context that are for training, and those held out."""
    shuffler, parts = random.Random(SHUFFLE_SEED), {}
    for context, count in counts.items():
        order = list(range(count))
        shuffler.shuffle(order)
        cut = round(TRAINING_SHARE * count)
        if count - cut < 4:
            raise ValueError(f"Context {context!r} has {count} images, too few to hold out {1 - TRAINING_SHARE:.0%} of them; give at least 14.")
        parts[context] = order[:cut], order[cut:]
    return parts


def _latents(found: Mapping[str, _Context], rows: Mapping[str, list[int]]) -> dict[str, np.ndarray] | None:
    if any(found[context].latents is None for context in rows):
        return None
    return {context: found[context].latents[chosen] for context, chosen in rows.items()}


def _cached_images(config, root: Path, found: Mapping[str, _Context], rows: Mapping[str, Mapping[str, list[int]]], fingerprint: str) -> dict:
    """Images uint8 [n, R, R, 3] by (split, context)."""
    size = config.resolution
    folder = f"{config.name}-{fingerprint}-{size}px-{config.train_per_context}-{config.held_out_per_context}-v{READER_VERSION}"
    parts = {}
    for split, context in [(s, c) for s in rows for c in rows[s]]:
        files = [root / found[context].folder / "images" / found[context].names[row] for row in rows[split][context]]
        blocks = functools.partial(images.blocks, files, (size, size), 3, f"Decoding {config.name} {context}")
        parts[f"{split}_{context}"] = cache.Part((len(files), size, size, 3), np.uint8, blocks)
    loaded = cache.load(cache.root(config.cache_dir) / folder, parts)
    return {(s, c): loaded[f"{s}_{c}"] for s in rows for c in rows[s]}
