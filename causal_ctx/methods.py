"""The methods as data: what each sees and whether it has a context module (spec section 3)."""

from typing import NamedTuple


class Method(NamedTuple):
    """`module`: a context module stands between noise and decoder. `contexts`: "all", or "obs" for the observational images alone.
    `targets`: the module is told the intervention targets; False is t = 0 for every image."""

    module: bool
    contexts: str
    targets: bool = True


METHODS = {
    "base": Method(module=False, contexts="obs"),
    "base_pooled": Method(module=False, contexts="all"),
    "cm_end_to_end": Method(module=True, contexts="all"),
    "cm_pooled": Method(module=True, contexts="all", targets=False),
    "cm_frozen": Method(module=True, contexts="all"),
    "cm_fine_tune": Method(module=True, contexts="all"),
}
