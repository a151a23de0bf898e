"""What a trained MCQ-VAE or CT-VAE can do, as plain numbers for JSON: how well codes keep images, and what actions on them do (spec sections 6 and 7).

Letters: n transitions or images, V factors, A = 2V actions, K codebooks of N codes, h, w grid of nodes, R noise seeds, H, W, C image.

`settings` is a run's `config.evaluation`. Everything random is a function of fixed seeds. What cannot be told is None. "sampled" draws masks and graphs, over
`settings.noise_seeds` seeds; predictions are means over as many draws; "deterministic" has thresholds in their place (see `codes`).
"""

import math
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
from scipy.special import stdtrit

from causal_ctx.data import transitions
from causal_ctx.data.transition_sets import Images, TransitionData
from causal_ctx.data.transitions import Transitions
from causal_ctx.evaluation import action_retrieval, disentanglement
from causal_ctx.evaluation.codes import Acted, CodePredictor
from causal_ctx.objectives import mcq_vae
from causal_ctx.progress import Advance, untold

SEED = 0
VALIDATION = 1024  # transitions that are scored after an epoch
DISENTANGLEMENT = {"off": None, "fast": disentanglement.FAST, "full": disentanglement.FULL}
_ROWS = 1024  # images held as floats at a time
_KEPT_BYTES = 2**30  # of features that are kept for images that are drawn again


def number_of_parts(settings, transition: bool) -> int:
    """How many parts `autoencoder_scores`, and with a `transition` layer `transition_scores`, tell of: passes over the images of a split, measures of codes and of
    features, retrieval with every seed and with thresholds, actions, no action, and every step of a chain."""
    alone = len(transitions.SPLITS) + (2 if DISENTANGLEMENT.get(settings.disentanglement) else 0)
    return alone + (settings.noise_seeds + 1 + 2 + settings.chain_steps if transition else 0)


def autoencoder_scores(settings, data: TransitionData, predictor: CodePredictor, advance: Advance = untold) -> dict:
    """{"reconstruction", "codes", "disentanglement" (unless off)} of at most `settings.images` images of every split (0: all), and of the whole set of factors.

    After each part `advance` is called with 1 and its name (see `number_of_parts`). Raises ValueError for a `settings.disentanglement` that does not exist.
    """
    if settings.disentanglement not in DISENTANGLEMENT:
        raise ValueError(f"evaluation.disentanglement is {settings.disentanglement!r}; choose one of {', '.join(DISENTANGLEMENT)}.")
    passes = {}
    for split in transitions.SPLITS:
        passes[split] = _reconstruct(predictor, _some(data.images[split], settings.images))
        advance(1, f"{split} images")
    mse, test = {f"{split}_mse": one["mse"] for split, one in passes.items()}, passes["test"]
    # E |x - m|^2 = E |x|^2 - 2 m E x + m^2 for every value
    baseline = test["mean_square"] - 2 * passes["train"]["mean"] * test["mean"] + passes["train"]["mean"] ** 2
    reconstruction = mse | {"test_psnr_db": mcq_vae.psnr_db(jnp.float32(test["mse"])), "mean_image_mse": baseline.mean(), "test_images": test["images"]}
    used = mcq_vae.share_metrics(jnp.asarray(test["shares"], jnp.float32), test["nodes"])
    scores = {"reconstruction": reconstruction, "codes": used | {"shares": test["shares"].tolist()}}
    if sizes := DISENTANGLEMENT[settings.disentanglement]:
        sizes = sizes._replace(reduction=settings.reduction, keep=settings.keep)
        scores["disentanglement"] = disentanglement_of(data.factors, predictor, sizes, advance)
    return _plain(scores)


def disentanglement_of(factors, predictor: CodePredictor, sizes: disentanglement.Settings, advance: Advance = untold) -> dict[str, dict]:
    """Scores of {"codes", "features" (before quantisation)} on the images of a `FactorData`; without scikit-learn "skipped" says why there is no DCI."""
    represented, reason = _Represented(factors, predictor), disentanglement.why_no_dci()
    names = [name for name in disentanglement.SCORES if not (reason and name == "dci")]
    scored = lambda read, sizes: disentanglement.disentanglement_scores(read, factors, sizes, SEED, names) | ({"skipped": {"dci": reason}} if reason else {})
    features = scored(represented.features, sizes)  # first: the codes of these images come with them
    advance(1, "disentanglement of features")
    codes = scored(represented.codes, sizes._replace(reduction="variance") if sizes.reduction == "pca" else sizes)
    advance(1, "disentanglement of codes")
    return {"codes": codes, "features": features}


def transition_scores(settings, data: TransitionData, predictor: CodePredictor, advance: Advance = untold) -> dict:
    """The scores of a transition layer on at most `settings.pairs` test transitions (0: all), both directions of a pair together, and on actions of its own.

    {"pairs", "retrieval", "per_action", "confusion", "action", "base", "self_consistency", "chain", "code_changes"}. `advance` as for `autoencoder_scores`.
    """
    test, train, count = data.pairs("test"), data.pairs("train"), data.num_factors
    pairs, groups = scored_pairs(test, settings.pairs)
    images, places = np.unique(np.stack([pairs.inputs, pairs.outputs]), return_inverse=True)
    codes = predictor.encode(Images(data.factors, images))
    before, after = codes[places.reshape(2, -1)]
    independent, actions = int(groups.max()) + 1, pairs.actions
    sampled, deterministic = _retrieved(settings, predictor, before, after, advance)
    accuracy = lambda predicted: action_retrieval.retrieval_accuracy(predicted, actions, count, independent)
    retrieval = {"sampled": accuracy(sampled), "deterministic": accuracy(deterministic), **action_retrieval.floors(actions, count)}
    chain = _chain(settings, data, predictor, advance)
    acted = _acted(settings, data, predictor, pairs, groups, before, after)
    advance(1, "actions")
    base = _base(settings, predictor, codes[np.unique(places.reshape(2, -1)[0])])
    advance(1, "no action")
    return _plain({
        "pairs": {"train": len(train.actions), "test": len(test.actions), "scored": len(actions), "independent": independent},
        "retrieval": retrieval | {"upper_bound": action_retrieval.upper_bounds(before, after, actions, count)},
        "per_action": [
            row | {"name": name, "balanced_train_pairs": int(balanced)}
            for row, name, balanced in zip(
                action_retrieval.per_action_accuracy(sampled, actions, count, train.actions), data.actions, data.balanced_transitions, strict=True
            )
        ],
        "confusion": action_retrieval.confusion(sampled, actions, 2 * count).tolist(),
        "action": acted,
        "base": base,
        "self_consistency": chain.pop("self_consistency"),
        "chain": chain.pop("steps"),
        "code_changes": action_retrieval.code_changes(before, after, actions, 2 * count),
    })  # fmt: skip


def validation_scores(predictor: CodePredictor, before: np.ndarray, after: np.ndarray, actions: np.ndarray, gamma: float) -> dict[str, float]:
    """{"action_nats", "retrieval_nats", "action_accuracy", "factor_accuracy", "loss_nats"} of codes [n, K, h, w] before and after actions [n].

    Of more than VALIDATION transitions as many are drawn, always the same, and masks and graphs with one seed: cheap enough for every epoch.
    """
    rows = np.arange(len(actions))
    if len(rows) > VALIDATION:
        rows = np.sort(np.random.default_rng(SEED).choice(rows, VALIDATION, replace=False))
    before, after, actions = before[rows], after[rows], np.asarray(actions)[rows]
    nats = float(predictor.act(before, actions, after, SEED).nats.mean())
    log_probs = predictor.retrieve(before, after, SEED)
    predicted, retrieval = log_probs.argmax(1), float(-log_probs[np.arange(len(rows)), actions].mean())
    factor = np.mean(predicted % (log_probs.shape[1] // 2) == actions % (log_probs.shape[1] // 2))
    scores = {"action_nats": nats, "retrieval_nats": retrieval, "action_accuracy": np.mean(predicted == actions), "factor_accuracy": factor}
    return {name: float(value) for name, value in scores.items()} | {"loss_nats": gamma * nats + retrieval}


def scored_pairs(test: Transitions, most: int) -> tuple[Transitions, np.ndarray]:
    """At most `most` of the transitions (0: all), the two directions of a pair side by side, and the number of the pair that each belongs to, int64 [n]."""
    ends = np.sort(np.stack([test.inputs, test.outputs]), axis=0)
    pair = np.unique(ends, axis=1, return_inverse=True)[1].reshape(-1)
    rank = np.random.default_rng(SEED).permutation(pair.max() + 1)[pair]
    rows = np.argsort(rank, kind="stable")[: most or None]
    return transitions.take(test, rows), np.unique(rank[rows], return_inverse=True)[1]


class _Represented:
    """Codes and features of images of a data set: every image goes through the encoder once, if the features of all fit into _KEPT_BYTES."""

    def __init__(self, factors, predictor: CodePredictor):
        self.factors, self.predictor = factors, predictor
        self.known, self.kept_codes, self.kept_features = np.zeros(len(factors), bool), None, None

    def features(self, indices: np.ndarray) -> np.ndarray:
        """[n, d] of indices [n]."""
        new = np.unique(indices if self.kept_features is None else indices[~self.known[indices]])
        if not len(new):
            return self.kept_features[indices]
        codes, features = self.predictor.represent(Images(self.factors, new))
        if self.kept_codes is None:
            room = lambda array: np.empty((len(self.factors), *array.shape[1:]), array.dtype)  # memory that is not written to is not taken
            self.kept_codes = room(codes)
            self.kept_features = room(features) if features[0].nbytes * len(self.factors) <= _KEPT_BYTES else None
        self.known[new], self.kept_codes[new] = True, codes
        if self.kept_features is None:
            return features[np.searchsorted(new, indices)]
        self.kept_features[new] = features
        return self.kept_features[indices]

    def codes(self, indices: np.ndarray) -> np.ndarray:
        """[n, K, h, w] of indices [n]."""
        if len(new := np.unique(indices[~self.known[indices]])):
            self.features(new)
        return self.kept_codes[indices]


def _reconstruct(predictor: CodePredictor, images: Images) -> dict:
    """One pass over images: {"images", "mse", "mean" and "mean_square" [H, W, C] of their values, "shares" [K, N] of their codes, "nodes" of a codebook}."""
    error, total, squares, counts, num_codes = 0.0, 0.0, 0.0, 0, predictor.model.quantiser.num_codes
    for part in _parts(len(images)):
        x = images[part]
        codes, x = predictor.encode(x), x / 255
        error += np.square(predictor.decode(codes) - x).sum()
        total, squares = total + x.sum(0), squares + np.square(x).sum(0)
        counts = counts + np.stack([np.bincount(own.ravel(), minlength=num_codes) for own in np.moveaxis(codes, 1, 0)])
    n = len(images)
    numbers = {"images": n, "mse": error / math.prod(images.shape), "mean": total / n, "mean_square": squares / n}
    return numbers | {"shares": counts / counts.sum(1, keepdims=True), "nodes": math.prod(codes.shape[2:])}


def _retrieved(settings, predictor: CodePredictor, before: np.ndarray, after: np.ndarray, advance: Advance) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest actions between codes [n, K, h, w]: sampled [R, n] and deterministic [n]."""
    found = []
    for seed in (*range(settings.noise_seeds), None):
        found.append(predictor.retrieve(before, after, seed).argmax(1))
        advance(1, "retrieval")
    return np.stack(found[:-1]), found[-1]


def _acted(settings, data: TransitionData, predictor: CodePredictor, pairs: Transitions, groups: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict:
    """"action": what the codes that are predicted after an action have in common with the true ones, and their images with the true ones.

    Squared errors are those of the expected image of the prediction and of its likeliest codes; of the likeliest codes of one draw, as the reference has it, and
    with thresholds; of the image before ("copy") and, as its counterpart to the expected image, of that with every code in doubt by the share that change.
    """
    acted, changed, num_codes = predictor.act(before, pairs.actions, after), before != after, predictor.model.quantiser.num_codes
    sampled = [predictor.act(before, pairs.actions, after, seed) for seed in range(settings.noise_seeds)]
    doubt = changed.mean() / (num_codes - 1)

    def shown(number: int, part: slice) -> dict[str, np.ndarray]:
        found = predictor.predict(before[part], pairs.actions[part], after[part], settings.noise_seeds, number)
        predicted.append(found._replace(images=None))
        hedged = np.where(before[part][..., None] == np.arange(num_codes), 1 - changed.mean(), doubt).astype(np.float32)
        images = {"expected_mse": found.images, "hedged_copy_mse": predictor.decode_expected(hedged)}
        codes = {"likeliest_mse": found.codes, "drawn_mse": sampled[0].codes[part], "deterministic_mse": acted.codes[part]}
        codes |= {"copy_reconstruction_mse": before[part], "reconstruction_mse": after[part]}
        return images | {name: predictor.decode(own) for name, own in codes.items()}

    predicted: list[Acted] = []
    scores = _pixels(data, pairs, groups, shown)
    likeliest, mask, nats = (np.concatenate([getattr(one, name) for one in predicted]) for name in ("codes", "mask", "nats"))
    scores["latent_nats"] = {
        "predicted": nats.mean(),
        "sampled": action_retrieval.mean_and_error([one.nats.mean() for one in sampled]),
        "deterministic": acted.nats.mean(),
    }
    scores["copy_nats"] = action_retrieval.copy_code_nats(before, after, num_codes)
    right = likeliest == after
    return scores | {"code_accuracy": right.mean(), "changed_code_accuracy": right[changed].mean() if changed.any() else None, "mask_rate": mask.mean()}


def _pixels(data: TransitionData, pairs: Transitions, groups: np.ndarray, shown: Callable[[int, slice], dict[str, np.ndarray]]) -> dict:
    """Mean squared errors against the true image of the images that `shown` gives for a numbered part of the pairs, {name: [n, H, W, C]}, and of the input image
    ("copy_mse"); "minus_copy" are the differences to that, with their intervals."""
    errors, changed_errors, changed_pixels = {}, {}, 0
    for number, part in enumerate(_parts(len(groups))):
        x, y = (data.factors.images(indices[part]) for indices in (pairs.inputs, pairs.outputs))
        differs = (x != y).any(-1)
        changed_pixels += differs.sum()
        for name, guess in (shown(number, part) | {"copy_mse": x / 255}).items():
            square = np.square(guess - y / 255).mean(-1)
            errors.setdefault(name, []).append(square.mean((1, 2)))
            changed_errors[name] = changed_errors.get(name, 0.0) + square[differs].sum()
    errors = {name: np.concatenate(parts) for name, parts in errors.items()}
    share = changed_pixels / (len(groups) * math.prod(data.image_shape[:2]))
    over_changed = {name: error / changed_pixels if changed_pixels else None for name, error in changed_errors.items()}
    differences = {name: _grouped_mean(error - errors["copy_mse"], groups) for name, error in errors.items() if name != "copy_mse"}
    return {name: error.mean() for name, error in errors.items()} | {"minus_copy": differences, "changed_pixels": over_changed | {"share": share}}


def _base(settings, predictor: CodePredictor, codes: np.ndarray) -> dict:
    """"base": what no intervention leaves of codes [n, K, h, w]."""
    sampled = [predictor.act(codes, None, codes, seed) for seed in range(settings.noise_seeds)]
    nats = {"sampled": action_retrieval.mean_and_error([one.nats.mean() for one in sampled]), "deterministic": predictor.act(codes, None, codes).nats.mean()}
    return {"latent_nats": nats, "code_accuracy": np.mean([(one.codes == codes).mean() for one in sampled]), "images": len(codes)}


def own_actions(data: TransitionData, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Test images and actions that lead from them to another image, int64 [n] each: up to `most` / A of every action (0: all)."""
    number, rows, rng = 2 * data.num_factors, data.images["test"].rows, np.random.default_rng(SEED)
    found = []
    for action in range(number):
        order = rng.permutation(rows)
        valid = order[transitions.moved(data.factors, order, np.full(len(order), action)) >= 0]
        found.append(valid[: max(most // number, 1) if most else None])
    return np.concatenate(found), np.repeat(np.arange(number), list(map(len, found)))


def _chain(settings, data: TransitionData, predictor: CodePredictor, advance: Advance) -> dict:
    """{"self_consistency", "steps"}: every action on test images, again and again on the codes that it made, while its factor stays in range.

    The likeliest codes are kept. After each step they are decoded and encoded again, and the action is retrieved between the last such codes and these.
    """
    factors, count = data.factors, data.num_factors
    indices, actions = own_actions(data, settings.pairs)
    start, values, steps = indices, factors.factors(indices), []
    seen = state = predictor.encode(Images(factors, indices))
    scores = {"self_consistency": None}
    for step in range(1, settings.chain_steps + 1):
        values[np.arange(len(actions)), actions % count] += np.where(actions < count, 1, -1)
        inside = ((values >= 0) & (values < np.array(factors.factor_sizes))).all(1)
        start, values, actions, state, seen = (array[inside] for array in (start, values, actions, state, seen))
        if not len(actions):
            break
        state = predictor.predict(state, actions, draws=settings.noise_seeds, seed=step, images=False).codes
        again, mse, copy_mse = _shown(data, predictor, state, start, factors.find(values))
        predicted, seen = predictor.retrieve(seen, again, step).argmax(1), again
        accuracy = {level: {name: score[name] for name in ("mean", "interval")}
                    for level, score in action_retrieval.retrieval_accuracy(predicted, actions, count).items()}  # fmt: skip
        steps.append({"step": step, "images": len(actions), **accuracy, "mse": mse, "copy_mse": copy_mse})
        if step == 1:
            rows = action_retrieval.per_action_accuracy(predicted, actions, count, actions)
            kept = ("action", "factor", "accuracy", "interval", "factor_accuracy")
            per_action = [{"name": name, "images": row["test_pairs"]} | {key: row[key] for key in kept} for name, row in zip(data.actions, rows, strict=True)]
            scores["self_consistency"] = {"images": len(actions), **accuracy, "per_action": per_action}
        advance(1, f"chains, step {step}")
    if rest := settings.chain_steps - len(steps):
        advance(rest, "chains")
    return scores | {"steps": steps}


def _shown(data: TransitionData, predictor: CodePredictor, codes: np.ndarray, start: np.ndarray, true: np.ndarray) -> tuple:
    """Codes decoded to images of 256 levels and encoded again; mean squared errors of those images, and of images `start` [n], against images `true` [n].

    An error is None without a true image: -1 stands for none, and where factors do not identify images there is none.
    """
    again, error, copied, known = [], 0.0, 0.0, 0
    for part in _parts(len(codes)):
        images = np.round(255 * predictor.decode(codes[part])).astype(np.uint8)
        again.append(predictor.encode(images))
        there = np.flatnonzero(true[part] >= 0) if data.factors.identified else np.zeros(0, np.int64)
        wanted = data.factors.images(true[part][there]) / 255
        error += np.square(images[there] / 255 - wanted).sum()
        copied += np.square(data.factors.images(start[part][there]) / 255 - wanted).sum()
        known += wanted.size
    return np.concatenate(again), *(total / known if known else None for total in (error, copied))


def _grouped_mean(values: np.ndarray, groups: np.ndarray) -> dict:
    """{"mean", "standard_error", "interval" (95 %, Student's t)} of values [n] of which only those of different groups [n] are independent."""
    mean, number = values.mean(), int(groups.max()) + 1
    if number < 2 or not np.isfinite(mean):
        return {"mean": mean, "standard_error": None, "interval": None}
    error = math.sqrt(np.square(np.bincount(groups, values - mean)).sum() * number / (number - 1)) / len(values)
    half = stdtrit(number - 1, 0.975) * error
    return {"mean": mean, "standard_error": error, "interval": [mean - half, mean + half]}


def _some(images: Images, most: int) -> Images:
    """At most `most` of the images (0: all), in their order."""
    if not most or len(images) <= most:
        return images
    return Images(images.data, np.sort(np.random.default_rng(SEED).choice(images.rows, most, replace=False)))


def _parts(n: int) -> Iterator[slice]:
    """Slices of 0 .. n - 1 of much the same length, at most _ROWS."""
    ends = np.linspace(0, n, -(-n // _ROWS) + 1).astype(int).tolist()
    return (slice(*part) for part in zip(ends, ends[1:]))


def _plain(value):
    """Dicts, lists, Python numbers; None for what is not finite."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    value = np.asarray(value).item()
    return value if math.isfinite(value) else None
