"""Tables of results.json dicts of CT-VAE's two phases: ours beside what no learning reaches. Pure functions; formats.py renders them.

As in tables.py, results of equal data set, backbone and label are seeds of one row, and a number that a result lacks is absent, not an error.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator

from causal_ctx.reports.published import Estimate
from causal_ctx.reports.tables import Row, Table, by_method, estimate

LEVELS = {"action": "Which action", "factor": "Which factor, either way"}
METRICS = {
    "dci_disentanglement": "DCI disentanglement", "dci_completeness": "DCI completeness", "dci_informativeness_train": "DCI informativeness, training",
    "dci_informativeness_test": "DCI informativeness, test", "mig": "MIG", "sap": "SAP",
    "factor_vae_train": "FactorVAE, training", "factor_vae_eval": "FactorVAE",
}
NOTE = (
    "Ours: mean ± standard error over training seeds. No numbers of CT-VAE (Gendron et al., IJCAI 2023) were available, so that none stand beside ours; "
    "chance, majority, copies and true codes, which need no learned transition, take their place. Intervals: 95 %, over test pairs; those of several seeds "
    "have the mean of their bounds."
)
RETRIEVAL = (
    "Higher is better. Sampled: masks and graphs drawn, mean over noise seeds; deterministic: probabilities above a half taken for certain. Majority: always "
    "the most frequent answer among the test pairs. Above: whether the whole interval lies above the majority. Bound: what codes allow when all pairs that "
    "change some code are right. "
)
IMAGES = (
    "Lower is better. Squared error of the predicted image after an action, mean over pixels in [0, 1]. Expected: of the mean latents, codes weighed by "
    "the probability that draws of mask and graph give them on average. Likeliest: of every node's likeliest code; one draw: the same in a single draw, as "
    "published; thresholds: with probabilities above a half taken for certain. Copy: the image before the action in its place; hedged: the expected image of "
    "its codes, each in doubt by the share that change. Copied codes: its reconstruction, which a transition that does nothing gives. True codes: the "
    "reconstruction of the image after, which a perfect one gives. MSE − copy: interval over test pairs; below: whether all of it is below zero. "
)
CODES = (
    "Nats per node, lower is better. Predicted: by the mean of the probabilities in several draws; sampled: the mean of the nats of single draws. Copy: "
    "the codes before the action with the published clipping; best copy: with the best constant probability of a change. Right: nodes whose likeliest code by the "
    "prediction is the true one; changed: the same among nodes that the action changes; touched: nodes under the mask, mean over draws. "
)
CHAIN = (
    "Test images under one action again and again, each on the codes that the one before predicted, while the factor has values left; the "
    "likeliest codes are kept, and decoded. Action and factor: "
    "accuracy of retrieval between the last two images that the model made. MSE: against the true image; copy: of the test image that the chain began with. "
)
AUTOENCODER = "Lower error is better. Mean image: the error of the mean training image, which no encoder needs. Squared error, mean over pixels in [0, 1]. "
USAGE = "Higher perplexity is better: exp of the entropy of the codes' shares, as if so many codes were used equally. Dead: codes of all codebooks never used. "
DISENTANGLEMENT = "Higher is better. Codes: one-hot codes of the nodes; latents: before quantisation, as the reference measures. "
ACTIONS = (
    "Train: training pairs of the action, of so many before the imbalance that the config asks for; share: of all training pairs. Factor: whether the "
    "factor is found, either way. Own: accuracy on images that the model itself made by the action. "
)


def value(result: dict, *path: str) -> float | None:
    """A number below result["scores"], None where it is absent."""
    found = result.get("scores", {})
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def measured(results: Iterable[dict], *path: str) -> Estimate | None:
    """`value` over seeds; a seed that was run twice counts once."""
    return estimate(value(r, *path) for r in by_seed(results))


def by_seed(results: Iterable[dict]) -> list[dict]:
    """The last result of every seed."""
    return list({r["seed"]: r for r in results}.values())


def interval(results: Iterable[dict], *path: str) -> tuple[float, float] | None:
    """The interval at a path below "scores", its bounds averaged over seeds; None without any."""
    found = [bounds for r in by_seed(results) if (bounds := _interval(r, path))]
    low, high = zip(*found) if found else ((), ())
    return (sum(low) / len(low), sum(high) / len(high)) if found else None


def difference(results: Iterable[dict], image: str = "expected_mse") -> tuple[float, float] | None:
    """The interval of a predicted image's squared error minus that of copying, averaged over seeds; None where it is not known."""
    return interval(results, "action", "minus_copy", image)


def above(results: Iterable[dict], level: str) -> bool | None:
    """Whether the interval of sampled retrieval lies above the majority row; None where either is not known."""
    found, majority = interval(results, "retrieval", "sampled", level, "interval"), measured(results, "retrieval", "majority", level)
    return found[0] > majority.mean if found and majority else None


def summary_tables(results: Iterable[dict]) -> list[Table]:
    """For each data set and backbone what was measured of retrieval, images and codes after actions, autoencoder and disentanglement; a row per label."""
    makers = (_retrieval, _images, _codes, _chain, _autoencoder, _usage, _disentanglement)
    made = (maker(f"{dataset}, {backbone}", methods) for (dataset, backbone), methods in by_method(results).items() for maker in makers)
    return [table._replace(marks_ties=False) for table in made if table.groups]  # runs on one autoencoder share its numbers


def detail_tables(results: Iterable[dict]) -> list[Table]:
    """One table per data set, backbone and label: accuracy on every action beside its frequency in training."""
    columns = ("train", "of", "share", "test", "accuracy", "interval", "factor", "own")
    return [
        Table(f"{dataset}, {backbone}, {label}: retrieval of every action", "action", ((f"{len(names)} actions", rows),), ACTIONS + NOTE, columns, {})
        for (dataset, backbone), methods in by_method(results).items()
        for label, rs in methods.items()
        if (names := action_rows(rs)) and (rows := tuple(_action_row(name, own) for name, own in names.items()))
    ]


def action_rows(results: Iterable[dict]) -> dict[str, list[dict]]:
    """{name of an action: its row in every seed}, in the order of their numbers."""
    found: dict = {}
    for r in by_seed(results):
        own = r.get("scores", {}).get("self_consistency", {}).get("per_action") or []
        for i, row in enumerate(r.get("scores", {}).get("per_action") or []):
            found.setdefault(row["name"], []).append(row | {"own": _accuracy(own[i]) if i < len(own) else None})
    return found


def comma_separated(results: Iterable[dict], summary: bool | None = None) -> str:
    """Numbers in long form, at full precision, one line each: those of a whole run (`summary`), of single actions (False), or with None of both."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow("dataset backbone method measure action mean standard_error seeds".split())
    for (dataset, backbone), methods in by_method(results).items():
        for label, rs in methods.items():
            for measure, action, e in _numbers(rs, summary):
                error = "" if e.standard_error is None else f"{e.standard_error:.6g}"
                writer.writerow([dataset, backbone, label, measure, action, f"{e.mean:.6g}", error, e.seeds])
    return stream.getvalue()


def _numbers(results: list[dict], summary: bool | None) -> Iterator[tuple[str, str, Estimate]]:
    results = by_seed(results)
    if summary is not False:
        leaves = [dict(_leaves(r.get("scores", {}))) for r in results]
        for path in dict.fromkeys(path for found in leaves for path in found):
            yield ".".join(path), "", estimate(found.get(path) for found in leaves)
    if summary is not True:
        for name, rows in action_rows(results).items():
            for key in dict.fromkeys(key for row in rows for key, v in row.items() if isinstance(v, int | float) and key not in ("action", "factor")):
                yield f"per_action.{key}", name, estimate(row.get(key) for row in rows)


def _leaves(scores: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """(path, number) of all numbers but those in lists, of which the bounds of intervals alone are taken."""
    for name, found in scores.items():
        if isinstance(found, dict):
            yield from _leaves(found, (*path, name))
        elif name == "interval" and found:
            yield from (((*path, bound), float(number)) for bound, number in zip(("low", "high"), found))
        elif isinstance(found, int | float) and not isinstance(found, bool):
            yield (*path, name), float(found)


def _retrieval(title: str, methods: dict[str, list[dict]]) -> Table:
    def row(label: str, rs: list[dict], level: str) -> Row:
        sampled, certain = (measured(rs, "retrieval", chance, level, "mean") for chance in ("sampled", "deterministic"))
        chance, majority, bound = (_mean(rs, "retrieval", *path, level) for path in (["chance"], ["majority"], ["upper_bound", "majority"]))
        bounds = _range(interval(rs, "retrieval", "sampled", level, "interval"))
        return Row(label, (_seeds(sampled or certain), sampled, bounds, certain, chance, majority, _yes(above(rs, level)), bound))

    def own(label: str, rs: list[dict], level: str) -> Row:
        found, bounds = measured(rs, "self_consistency", level, "mean"), _range(interval(rs, "self_consistency", level, "interval"))
        return Row(label, (_seeds(found), found, bounds, None, _mean(rs, "retrieval", "chance", level), None, None, None))

    columns = ("seeds", "sampled", "interval", "deterministic", "chance", "majority", "above", "bound")
    groups = _groups({f"{heading}, between two test images": (row, level) for level, heading in LEVELS.items()}
                     | {f"{heading}, between a test image and what the model made of it": (own, level) for level, heading in LEVELS.items()}, methods)
    return Table(f"{title}, retrieval: accuracy", "method", groups, RETRIEVAL + NOTE, columns, {"sampled": "highest", "deterministic": "highest"})


def _images(title: str, methods: dict[str, list[dict]]) -> Table:
    def row(label: str, rs: list[dict], path: tuple[str, ...]) -> Row:
        keys = (path[-1], "copy_mse", "hedged_copy_mse", "copy_reconstruction_mse", "reconstruction_mse")
        ours, *others = (measured(rs, "action", *path[:-1], key) for key in keys)
        found = difference(rs, path[0]) if len(path) == 1 else None
        return Row(label, (_seeds(ours), ours, *map(_bare, others), _range(found, 5), _yes(found[1] < 0 if found else None)))

    columns = ("seeds", "MSE", "copy", "hedged", "copied codes", "true codes", "MSE − copy", "below")
    shown = {"expected": "expected_mse", "likeliest": "likeliest_mse", "one draw": "drawn_mse", "thresholds": "deterministic_mse"}
    groups = _groups({f"Image after an action, {name}": (row, (key,)) for name, key in shown.items()}
                     | {f"Its pixels that the action changes, {name}": (row, ("changed_pixels", key)) for name, key in shown.items()}, methods)
    digits = {name: 5 for name in columns[1:-2]}
    return Table(f"{title}, action: images", "method", groups, IMAGES + NOTE, columns, {"MSE": "lowest"}, digits)


def _codes(title: str, methods: dict[str, list[dict]]) -> Table:
    def row(label: str, rs: list[dict], _) -> Row:
        predicted, sampled, certain = (measured(rs, "action", "latent_nats", *path) for path in (["predicted"], ["sampled", "mean"], ["deterministic"]))
        copies = (_mean(rs, "action", "copy_nats", key) for key in ("clipped", "calibrated"))
        shares = (_mean(rs, "action", key) for key in ("code_accuracy", "changed_code_accuracy", "mask_rate"))
        return Row(label, (_seeds(sampled or certain), predicted, sampled, certain, *copies, *shares))

    def still(label: str, rs: list[dict], _) -> Row:
        sampled, certain = (measured(rs, "base", "latent_nats", *path) for path in (["sampled", "mean"], ["deterministic"]))
        sampled = sampled or measured(rs, "base", "latent_nats")
        return Row(label, (_seeds(sampled), None, sampled, certain, None, None, _mean(rs, "base", "code_accuracy"), None, None))

    columns = ("seeds", "predicted", "sampled", "deterministic", "copy", "best copy", "right", "changed", "touched")
    groups = _groups({"Codes after an action": (row, None), "Codes without an action, which stay": (still, None)}, methods)
    return Table(f"{title}, action: codes", "method", groups, CODES + NOTE, columns, dict.fromkeys(columns[1:4], "lowest"))


def _chain(title: str, methods: dict[str, list[dict]]) -> Table:
    chains = {label: [{step["step"]: step for step in r.get("scores", {}).get("chain") or []} for r in by_seed(rs)] for label, rs in methods.items()}

    def row(label: str, _, step: int) -> Row:
        found = [{"scores": own.get(step, {}), "seed": seed} for seed, own in enumerate(chains[label])]
        images, action, factor, mse, copy = (measured(found, *path) for path in (["images"], ["action", "mean"], ["factor", "mean"], ["mse"], ["copy_mse"]))
        return Row(label, (_seeds(action), f"{images.mean:,.0f}" if images else None, action, factor, mse, _bare(copy)))

    steps = sorted({step for logs in chains.values() for own in logs for step in own})
    columns, digits = ("seeds", "images", "action", "factor", "MSE", "copy"), {"MSE": 5, "copy": 5}
    groups = _groups({f"After {'one action' if step == 1 else f'the same action {step} times'}": (row, step) for step in steps}, methods, 2)
    return Table(f"{title}, chains of one action", "method", groups, CHAIN + NOTE, columns, {"action": "highest", "factor": "highest", "MSE": "lowest"}, digits)


def _autoencoder(title: str, methods: dict[str, list[dict]]) -> Table:
    keys = ("train_mse", "validation_mse", "test_mse", "mean_image_mse", "test_psnr_db")

    def row(label: str, rs: list[dict], _) -> Row:
        train, validation, test, mean, psnr = (measured(rs, "reconstruction", key) for key in keys)
        return Row(label, (_seeds(test), test, _bare(validation), _bare(train), _bare(mean), psnr))

    columns = ("seeds", "test MSE", "validation MSE", "training MSE", "mean image", "PSNR, dB")
    groups, digits = _groups({"Images through their codes": (row, None)}, methods), {name: 5 for name in columns} | {"PSNR, dB": 2}
    return Table(f"{title}, autoencoder: images", "method", groups, AUTOENCODER + NOTE, columns, {"test MSE": "lowest", "PSNR, dB": "highest"}, digits)


def _usage(title: str, methods: dict[str, list[dict]]) -> Table:
    def row(label: str, rs: list[dict], _) -> Row:
        perplexity, dead, bits = (measured(rs, "codes", key) for key in ("perplexity_codes", "dead_codes", "code_bits_per_image"))
        shares = next((r["scores"]["codes"]["shares"] for r in rs if r.get("scores", {}).get("codes", {}).get("shares")), None)
        books = f"{len(shares)} × {len(shares[0])}" if shares else None
        return Row(label, (_seeds(perplexity), books, perplexity, dead, bits))

    columns = ("seeds", "codebooks", "perplexity", "dead", "bits per image")
    groups, digits = _groups({"Codes in use": (row, None)}, methods, 2), dict.fromkeys(columns, 1)
    return Table(f"{title}, autoencoder: codes", "method", groups, USAGE + NOTE, columns, {"perplexity": "highest", "dead": "lowest"}, digits)


def _disentanglement(title: str, methods: dict[str, list[dict]]) -> Table:
    def row(label: str, rs: list[dict], metric: str) -> Row:
        codes, features = (measured(rs, "disentanglement", part, metric) for part in ("codes", "features"))
        return Row(label, (_seeds(codes or features), codes, features))

    parts = [part for rs in methods.values() for r in rs for part in (r.get("scores", {}).get("disentanglement") or {}).values() if isinstance(part, dict)]
    there = dict.fromkeys([*METRICS, *(name for part in parts for name, number in part.items() if isinstance(number, float))])
    groups, columns = _groups({METRICS.get(name, name.replace("_", " ")): (row, name) for name in there}, methods), ("seeds", "codes", "latents")
    return Table(f"{title}, disentanglement", "method", groups, DISENTANGLEMENT + NOTE, columns, {"codes": "highest", "latents": "highest"})


def _groups(makers: dict[str, tuple[Callable, str | int | None]], methods: dict[str, list[dict]], place: int = 1) -> tuple:
    """{heading: (row maker, its last argument)} as groups of the rows that hold a number at `place` or behind it, without empty groups."""
    made = ((heading, tuple(maker(label, rs, name) for label, rs in methods.items())) for heading, (maker, name) in makers.items())
    kept = ((heading, tuple(row for row in rows if row.cells[0] and any(row.cells[place:]))) for heading, rows in made)
    return tuple((heading, rows) for heading, rows in kept if rows)


def _action_row(name: str, rows: list[dict]) -> Row:
    bounds = [row["interval"] for row in rows if row.get("interval")]
    mean = [sum(side) / len(bounds) for side in zip(*bounds)] if bounds else None
    count = lambda key: f"{found.mean:,.0f}" if (found := estimate(row.get(key) for row in rows)) else None
    share, accuracy, factor, own = (estimate(row.get(key) for row in rows) for key in ("frequency", "accuracy", "factor_accuracy", "own"))
    return Row(name, (count("train_pairs"), count("balanced_train_pairs"), _bare(share), count("test_pairs"), accuracy, _range(mean), factor, _bare(own)))


def _accuracy(found) -> float | None:
    """The accuracy in an entry of self-consistency per action: a number, or a dict that holds it."""
    found = next((found[key] for key in ("accuracy", "action", "mean") if key in found), None) if isinstance(found, dict) else found
    return found.get("mean") if isinstance(found, dict) else found


def _interval(result: dict, path: tuple[str, ...]) -> list[float] | None:
    found = result.get("scores", {})
    for name in path if path[-1] == "interval" else (*path, "interval"):
        found = found.get(name) if isinstance(found, dict) else None
    return found or None


def _mean(results: list[dict], *path: str) -> Estimate | None:
    """The mean alone, where the spread says nothing about the model or there is no room for it."""
    return _bare(measured(results, *path))


def _bare(found: Estimate | None) -> Estimate | None:
    return Estimate(found.mean) if found else None


def _range(bounds: Iterable[float] | None, digits: int = 3) -> str | None:
    return " to ".join(f"{bound:.{digits}f}".replace("-", "−") for bound in bounds) if bounds else None


def _seeds(found: Estimate | None) -> str | None:
    return str(found.seeds) if found else None


def _yes(found: bool | None) -> str | None:
    return None if found is None else "yes" if found else "no"
