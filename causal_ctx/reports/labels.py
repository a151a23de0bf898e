"""What a run is called in tables, legends and headings: its method, and the fields that set it apart. Runs of one label are seeds of one another."""

from collections.abc import Collection, Iterable, Sequence

from causal_ctx.reports.reading import read_fields
from causal_ctx.supplied import OF_NO_MATTER

NOT_TOLD = ("seed", "init_from", *OF_NO_MATTER)  # fields that do not set runs apart


def labels(configs: Sequence[dict], not_told: Collection[str] = NOT_TOLD) -> list[str]:
    """A label per config {dotted field: value}: the method, and the fields in which runs of one method, or the data of any runs, differ, `not_told` aside."""
    return [" ".join([config["method"], *_differing(config, configs, not_told)]) for config in configs]


def labelled(runs: Iterable) -> list[tuple[str, object]]:
    """(label, run) of Run objects."""
    runs = list(runs)
    return list(zip(labels([read_fields(run.workdir) for run in runs]), runs))


def _differing(config: dict, configs: Sequence[dict], not_told: Collection[str]) -> list[str]:
    same = [other for other in configs if other["method"] == config["method"]]
    others = {field: configs if field.startswith("data.") else same for field in config if field not in not_told}
    return [f"{field.split('.')[-1]}={config[field]}" for field, among in others.items() if any(field in other and other[field] != config[field] for other in among)]
