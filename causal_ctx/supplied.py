"""The configs that are supplied as files in configs/: found by name, and which of them, with which flags, makes a config at hand."""

import contextlib
import importlib.util
import itertools
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from causal_ctx import methods
from causal_ctx.config import SIZES, ConfigError, flat
from causal_ctx.methods import METHODS, chosen

CONFIGS = Path(__file__).parent.parent / "configs"
UNPUBLISHED = ("folder", "3dident/procedural", "quad")  # data sets of which no numbers were published
OF_THE_MODULE = tuple(f"model.{field}" for field in ("noise_mixing", "composition", "module_normalisation", "noise_width", "concept_width", "depth"))
OF_NO_MATTER = ("data.cache_dir", "data.placement", "checkpoint.minutes", "checkpoint.every_epochs", "train.steps_per_call", "autoencoder.steps_per_call")  # to results
PUBLISHED = {  # fields whose published value is not our default, by system
    "context": methods.USUAL | {"model.noise_mixing": "reference", "model.module_normalisation": "batch", "model.backbone_normalisation": "batch"},
    "transition": {"model.gain": 1.0, "model.codebook_update": "gradient", "model.revival": 0.0},
}


def module(folder: Path, name: str) -> ModuleType:
    """The config file `name` in `folder`, which is code, executed. Raises FileNotFoundError where it is not there."""
    path = folder / f"{name}.py"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there.")
    spec = importlib.util.spec_from_file_location(f"configs_{name}", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def command(fields: dict[str, object], workdir: str) -> str:
    """The command that makes a run of a config {dotted field: value} in `workdir`: the supplied config that comes nearest, and flags for the rest; "" without one."""
    fields = chosen(fields)
    nearest = min(_supplied(fields), key=lambda candidate: len(_differing(fields, candidate[1])), default=None)
    if nearest is None:
        return ""
    own_source = Path(str(fields.get("init_from"))) == Path(workdir) / str(METHODS[fields["method"]].starts_from)
    flags = [f"--config.{name}={_flag(fields[name])}" for name in _differing(fields, nearest[1]) if name not in (*OF_NO_MATTER, *["init_from"] * own_source)]
    return shlex.join(["python", "-m", "causal_ctx.main", f"--config={nearest[0]}", *flags, f"--workdir={workdir}"])


def unlike_published(fields: dict[str, object]) -> dict[str, tuple[object, object]]:
    """{dotted field: (its value, the published one)} of a config where both are known and differ, without the seed and what is of no matter."""
    fields = chosen(fields)
    whole = [config for name, config in _supplied(fields) if config["data.name"] == fields.get("data.name") and name.endswith("paper")]
    if not whole or fields["data.name"] in UNPUBLISHED:
        return {}
    published = whole[0] | PUBLISHED[METHODS[fields["method"]].system]
    skipped = [*OF_NO_MATTER, "seed", "method", "init_from", "data.path", "data.seed", *([] if METHODS[fields["method"]].module else OF_THE_MODULE)]
    return {name: (fields[name], published[name]) for name in _differing(fields, published) if name not in skipped and not name.startswith("evaluation.")}


def _supplied(fields: dict[str, object]) -> Iterator[tuple[str, dict[str, object]]]:
    """(file and what follows its colon, config with the choices of the method) of every supplied config of the method's system, at every size."""
    if fields.get("method") not in METHODS:
        return
    of_transitions = METHODS[fields["method"]].system == "transition"
    files = [path for path in sorted(CONFIGS.glob("*.py")) if (path.stem == fields["method"] if of_transitions else path.stem not in METHODS)]
    for path, size in itertools.product(files, (*SIZES, "fast")):
        arguments = f"{fields.get('data.name')},{size}" if of_transitions else size
        with contextlib.suppress(ConfigError):  # of a size that this file does not have
            own = flat(module(CONFIGS, path.stem).get_config(arguments).to_dict())
            yield f"configs/{path.name}:{arguments}", chosen(own | {"method": fields["method"]}) | {"method": own["method"]}


def _differing(ours: dict[str, object], theirs: dict[str, object]) -> list[str]:
    plain = lambda value: list(value) if isinstance(value, tuple) else value
    return [name for name in ours if name in theirs and plain(ours[name]) != plain(theirs[name])]


def _flag(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
