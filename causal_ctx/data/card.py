"""The data card: what a data set holds and what is wrong with it, as one JSON object that a run keeps beside its config."""

from typing import TypedDict

from causal_ctx.data import separation, validation
from causal_ctx.data.contexts import OBSERVATIONAL, ContextData, entropy_floor_bpp

VERSION = 1  # raise it whenever the same data would give another card


class Card(TypedDict):
    """`contexts` {name: numbers} is empty where the images could not be looked at; `problems` are `validation.Problem` as dicts, errors first.

    The numbers of a context: how many images of it are for training, validation and held out; mean and standard deviation of the values in [0, 1] and
    entropy_floor_bpp, of a sample; halves, the distance of two samples of it; distance, p_value and side of its comparison with "obs" (not of "obs").
    `checked` identifies what the card is of.
    """

    name: str
    image_shape: list[int]
    concepts: list[str]
    contexts: dict[str, dict[str, float]]
    problems: list[dict[str, str]]
    checked: str


def identity(dataset: ContextData, micro_batch: int) -> str:
    """`checked` of the card that `describe` would make."""
    return f"v{VERSION}-{micro_batch}-{validation.fingerprint(dataset)}"


def describe(dataset: ContextData, micro_batch: int = 1) -> Card:
    """The card of `dataset` for training in micro-batches of `micro_batch`; a second or two of one core, little memory, whatever its size."""
    unsound = validation.structure(dataset)
    measured = None if unsound else separation.measure(dataset)
    found = unsound or validation.problems(dataset, micro_batch, measured)
    return Card(
        name=dataset.name,
        image_shape=list(dataset.image_shape) if OBSERVATIONAL in dataset.train else [],
        concepts=list(dataset.concepts),
        contexts=_numbers(dataset, measured) if measured else {},
        problems=[problem._asdict() for problem in found],
        checked=identity(dataset, micro_batch),
    )


def _numbers(dataset: ContextData, measured: separation.Separation) -> dict[str, dict[str, float]]:
    numbers = {}
    for seed, context in enumerate(measured.halves):
        counts = {split: len(images.get(context, ())) for split, images in _splits(dataset).items()}
        images = separation.sample(dataset.train.get(context, dataset.held_out.get(context)), 2 * separation.SIDE, seed)
        values = {"mean": float(images.mean() / 255), "standard_deviation": float(images.std() / 255), "entropy_floor_bpp": entropy_floor_bpp(images)}
        compared = measured.from_obs[context]._asdict() if context in measured.from_obs else {}
        numbers[context] = counts | values | {"halves": measured.halves[context]} | compared
    return numbers


def _splits(dataset: ContextData) -> dict[str, dict]:
    return {"training": dataset.train, "validation": dataset.validation, "held_out": dataset.held_out}
