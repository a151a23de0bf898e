"""The models, built from a config."""

import ml_collections

from causal_ctx.methods import METHODS, choice
from causal_ctx.models.context_module import ContextModule
from causal_ctx.models.conv_vae import ConvVAE, Decoder, Encoder


def latent_width(config: ml_collections.ConfigDict, num_concepts: int) -> int:
    """Width of z: K * w_in with a context module, E without one (spec section 2)."""
    return num_concepts * config.model.noise_width if METHODS[config.method].module else config.model.features


def build_model(config: ml_collections.ConfigDict, num_concepts: int, image_shape: tuple[int, int, int], calibrating: bool = False) -> ConvVAE:
    """The VAE of `config` for images [H, W, C] and K concepts.

    `calibrating` builds the twin that shares its variables and, in training mode, replaces (not averages) the statistics of "generated" layers while those
    of "batch" layers stay.
    """
    m = config.model
    kind = lambda name: "running" if calibrating and name == "batch" else name
    module_normalisation, backbone_normalisation = (kind(choice(config, f"model.{part}_normalisation")) for part in ("module", "backbone"))
    momentum = 0.0 if calibrating else 0.9
    module, method = None, METHODS[config.method]
    if method.module:
        module = ContextModule(
            num_concepts,
            m.noise_width,
            m.concept_width,
            m.depth,
            m.features,
            m.noise_mixing,
            choice(config, "model.composition"),
            module_normalisation,
            momentum,
        )
    encoder = Encoder(m.backbone, latent_width(config, num_concepts), m.features, backbone_normalisation, momentum, choice(config, "model.posterior") == "told")
    decoder = Decoder(m.backbone, image_shape, backbone_normalisation, momentum)
    return ConvVAE(encoder, decoder, module, hears_targets=method.module and method.targets)
