"""What the numbers of CT-VAE's runs say, in sentences computed from them."""

from collections.abc import Iterable

from causal_ctx.reports.formats import show
from causal_ctx.reports.published import Estimate
from causal_ctx.reports.tables import by_method
from causal_ctx.reports.transition_tables import above, difference, interval, measured


def verdict(results: Iterable[dict]) -> list[str]:
    """Sentences on retrieval, images and codes after actions, and the autoencoder, for each data set and backbone; of the label that retrieves best."""
    return [sentence for methods in by_method(results).values() for sentence in _sentences(methods) if sentence]


def _sentences(methods: dict[str, list[dict]]) -> list[str]:
    scores = {label: e for label, rs in methods.items() if (e := measured(rs, "retrieval", "sampled", "action", "mean"))}
    errors = {label: e for label, rs in methods.items() if (e := measured(rs, "reconstruction", "test_mse"))}
    acting = [label for label, rs in methods.items() if measured(rs, "action", "expected_mse")]
    best = max(scores, key=lambda label: scores[label].mean, default=None) or next(iter(acting), None)
    sharpest = min(errors, key=lambda label: errors[label].mean, default=None)
    chosen = [f"Of {len(scores)} settings the one that retrieves best on the test pairs is told of; choosing it there flatters it."] if len(scores) > 1 else []
    transition = [_retrieval(best, methods[best]), _images(best, methods[best]), _codes(best, methods[best])] if best else []
    return [*transition, *chosen, _autoencoder(sharpest, methods[sharpest]) if sharpest else ""]


def _retrieval(label: str, results: list[dict]) -> str:
    """Whether the action is found more often than by naming the most frequent one, by the interval."""
    ours, majority = measured(results, "retrieval", "sampled", "action", "mean"), measured(results, "retrieval", "majority", "action")
    if not ours:
        return ""
    bounds, chance = interval(results, "retrieval", "sampled", "action", "interval"), measured(results, "retrieval", "chance", "action")
    factor, bound = measured(results, "retrieval", "sampled", "factor", "mean"), measured(results, "retrieval", "upper_bound", "majority", "action")
    pairs = measured(results, "pairs", "scored") or measured(results, "pairs", "test")
    told = f" of {pairs.mean:,.0f} test pairs" if pairs else " of the test pairs"
    spread = f" (95 % interval {bounds[0]:.1%} to {bounds[1]:.1%})" if bounds else ""
    return (f"{label} tells which action led from one image to the other for {_percent(ours)}{told}{spread}{_against(ours, majority, bounds, results)}"
            + (f"; guessing evenly gives {chance.mean:.1%}" if chance else "")
            + (f", and codes allow {bound.mean:.1%}" if bound else "")
            + (f". It names the right factor, whichever way it moved, for {_percent(factor)}." if factor else "."))


def _against(ours: Estimate, majority: Estimate | None, bounds: tuple[float, float] | None, results: list[dict]) -> str:
    if not majority:
        return ""
    row = f"the {majority.mean:.1%} of always naming the most frequent action"
    if bounds is None:
        return f", {'above' if ours.mean > majority.mean else 'not above'} {row}, with no interval known"
    if above(results, "action"):
        return f", above {row}, which the interval excludes"
    if bounds[1] < majority.mean:
        return f", below {row}: it has not learned to retrieve actions"
    return f", which is not distinguishable from {row}: the interval holds it"


def _images(label: str, results: list[dict]) -> str:
    """Whether the predicted image is nearer to the true one than the image before the action is."""
    ours, copy = measured(results, "action", "expected_mse"), measured(results, "action", "copy_mse")
    if not (ours and copy):
        return ""
    bounds, way = difference(results), "below" if ours.mean < copy.mean else "above"
    off = abs(copy.mean - ours.mean) / copy.mean if copy.mean else 0.0
    certain = "its interval over pairs is not known" if bounds is None else _certainty(bounds)
    sentence = (f"The squared error of the images that {label} expects after an action is {off:.0%} {way} that of copying the images before it: "
                f"{show(ours, 5)} against {show(copy, 5)}; {certain}")
    copied, true = measured(results, "action", "copy_reconstruction_mse"), measured(results, "action", "reconstruction_mse")
    if copied and true and copied.mean > true.mean:
        share = (copied.mean - ours.mean) / (copied.mean - true.mean)
        reached = "no nearer than" if share <= 0 else f"{share:.0%} of the way from" if share <= 1 else "beyond the way from"
        sentence += f". That is {reached} unchanged codes ({show(copied, 5)}) to the true codes ({show(true, 5)})"
    likeliest, within = measured(results, "action", "likeliest_mse"), difference(results, "likeliest_mse")
    if likeliest and within:
        sentence += f". Images of the likeliest codes alone have {show(likeliest, 5)}; {_certainty(within)}"
    return sentence + "."


def _certainty(bounds: tuple[float, float]) -> str:
    if bounds[1] < 0:
        return "the interval of the difference is wholly below zero"
    if bounds[0] > 0:
        return "the interval of the difference is wholly above zero, so copying is better"
    return "the interval of the difference holds zero, so neither is better for certain"


def _codes(label: str, results: list[dict]) -> str:
    ours, copy = measured(results, "action", "latent_nats", "predicted"), measured(results, "action", "copy_nats", "calibrated")
    if not (ours and copy):
        return ""
    relation = "below" if ours.mean < copy.mean else "not below"
    changed = measured(results, "action", "changed_code_accuracy")
    right = f"; of the codes that an action changes it predicts {changed.mean:.1%}" if changed else ""
    return f"The codes after an action cost {label} {show(ours)} nats per node, {relation} the {copy.mean:.3f} of the best copy of those before{right}."


def _autoencoder(label: str, results: list[dict]) -> str:
    error, mean, psnr = (measured(results, "reconstruction", key) for key in ("test_mse", "mean_image_mse", "test_psnr_db"))
    beside = f", {error.mean / mean.mean:.1%} of the error of the mean image" if mean and mean.mean else ""
    decibels = f" ({show(psnr, 1)} dB)" if psnr else ""
    sentence = f"{label} reconstructs test images from their codes at a mean squared error of {show(error, 5)}{beside}{decibels}"
    perplexity, dead = measured(results, "codes", "perplexity_codes"), measured(results, "codes", "dead_codes")
    used = f"; its codes are used as if {perplexity.mean:.1f} were used equally" if perplexity else ""
    return sentence + used + (f", {dead.mean:g} {'is' if dead.mean == 1 else 'are'} never used" if dead else "") + "."


def _percent(found: Estimate) -> str:
    return f"{found.mean:.1%}" + ("" if found.standard_error is None else f" ± {found.standard_error:.1%}")
