"""Trained weights as a plain file, for programs that know neither this package nor Orbax."""

import io
from pathlib import Path

import jax
import numpy as np

from causal_ctx import config as configs
from causal_ctx.files import DamagedError, write_atomically
from causal_ctx.methods import settled

WEIGHTS = "params.npz"


def export(config, workdir: Path) -> None:
    """Writes export/params.npz and export/config.json of the run in `workdir`: the best weights as arrays "params/encoder/conv_0/kernel" and so on, running
    averages among them, which `np.load(..., allow_pickle=False)` reads and `load_run(workdir / "export")` too."""
    from causal_ctx.run import best_state, load_run  # which reads such files

    del config  # the run carries its own
    run, folder, stream = load_run(workdir), workdir / "export", io.BytesIO()
    np.savez(stream, **{name: np.asarray(leaf) for name, leaf in named(best_state(run).variables).items()})
    folder.mkdir(exist_ok=True)
    write_atomically(folder / WEIGHTS, stream.getvalue())
    write_atomically(folder / "config.json", configs.to_json(settled(run.config)))
    print(f"Weights: {folder / WEIGHTS}")


def named(variables: dict) -> dict:
    """{path with slashes: leaf} of a tree of dicts."""
    return {"/".join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}


def read(path: Path, like: dict) -> dict:
    """The variables in the file `path`, in the structure of `like`. Raises DamagedError for a file that cannot be read, or holds other names or shapes."""
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: np.asarray(file[name]) for name in file.files}
    except Exception as error:  # zipfile, zlib and numpy raise whatever the damaged file leads to
        raise DamagedError(f"{path} cannot be read ({error}); export the run again.") from error
    wanted = named(like)
    shape = lambda arrays, name: "missing" if name not in arrays else list(arrays[name].shape) if arrays[name].dtype.kind in "biuf" else "no numbers"
    differing = [f"{name} ({shape(held, name)} there, {shape(wanted, name)} wanted)" for name in sorted(held.keys() | wanted.keys()) if shape(held, name) != shape(wanted, name)]
    if differing:
        raise DamagedError(f"{path} holds other weights than its config.json describes: {', '.join(differing[:5])}; export the run again.")
    return jax.tree.unflatten(jax.tree.structure(like), [held[name].astype(leaf.dtype) for name, leaf in wanted.items()])
