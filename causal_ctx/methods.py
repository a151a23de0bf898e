"""The methods as data: what each is, sees and trains, and from which run it starts (spec section 3)."""

from typing import NamedTuple

# The two parts of the parameters, named by their path, that a method treats alike: NEW is what a context module brings or changes the shape of.
NEW = r"context_module/.*|encoder/(mean|log_variance)/.*"
BACKBONE = r"(encoder|decoder)/.*"


class Method(NamedTuple):
    """One row of the paper's comparison.

    module: a context module stands between noise and decoder.
    contexts: the images that are seen, "all" or "obs" for the observational ones alone.
    targets: the module is told the intervention targets; False is t = 0 for every image.
    starts_from: the method of the trained run (`init_from`) whose BACKBONE tensors are copied; empty: from scratch.
    trains: ordered rules (regex of parameter paths, fraction of the epochs after which they train, None for never); the first that matches counts.
    system: which of the published systems it belongs to, "context" or "transition".
    """

    module: bool
    contexts: str = "all"
    targets: bool = True
    starts_from: str = ""
    trains: tuple[tuple[str, float | None], ...] = ((NEW, 0.0), (BACKBONE, 0.0))
    system: str = "context"


METHODS = {
    "base": Method(module=False, contexts="obs"),
    "base_pooled": Method(module=False),
    "cm_end_to_end": Method(module=True),
    "cm_pooled": Method(module=True, targets=False),
    "cm_frozen": Method(module=True, starts_from="base_pooled", trains=((NEW, 0.0), (BACKBONE, None))),
    "cm_fine_tune": Method(module=True, starts_from="base_pooled", trains=((NEW, 0.0), (BACKBONE, 0.2))),
    "mcq_vae": Method(module=False, system="transition", trains=((".*", 0.0),)),
    "ct_vae": Method(module=False, system="transition", starts_from="mcq_vae", trains=((".*", 0.0),)),
}
