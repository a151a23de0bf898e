"""Whether values are of the kind of others: a config written in Python can hold anything."""

from collections.abc import Mapping


def misfit(fields: Mapping[str, object], like: Mapping[str, object]) -> str:
    """A sentence about the first of `fields` that is missing or of another kind than its namesake in `like`; "" if all fit."""
    for name, known in like.items():
        value = fields.get(name)
        every = isinstance(value, tuple) and all(fits(item, known[0]) for item in value) if isinstance(known, tuple) else fits(value, known)
        if not every:
            return f"{name} is {value!r:.80}; it must be of the kind of {known!r}."
    return ""


def fits(value, known) -> bool:
    """Whether `value` is of the kind of `known`: a whole number is a number, a truth value is none."""
    wanted = (int, float) if isinstance(known, float) else type(known)
    return isinstance(value, wanted) and isinstance(value, bool) == isinstance(known, bool)
