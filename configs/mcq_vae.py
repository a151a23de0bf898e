"""Phase 1 of CT-VAE by itself: images to a grid of codes and back (Gendron et al. 2023).

    python -m causal_ctx.main --config=configs/mcq_vae.py:quad,cpu --workdir=runs/mcq
    python -m causal_ctx.main --config=configs/mcq_vae.py:sprites,cpu --config.data.path=SHEETS --config.model.num_codebooks=4 --workdir=runs/sprites_mcq

The data set and the size stand after the colon: see configs/ct_vae.py.

Why the defaults are not the published ones everywhere. Squared error of training batches on quad at 16 x 16 (widths 32 and 64, one block, D = 32, sigmoid output) after
600 steps of 64 images, one seed each; the mean image has 0.203:

    codebooks by gradient, as published                                  0.0375, 50 of 64 codes unused in a batch
    by gradient, dead codes moved (revival 0.3), first onto latents      0.0272
    moving averages (decay 0.99), dead codes moved                       0.0189
    the same, codes begin on latents of the first batch                  0.0173
    the same, decay 0.9 (the default)                                    0.0151
    decay 0.99, kernels that keep the scale of features (gain 2.45)      0.0130

On Sprites at 32 x 32, mostly black, a sigmoid stays at 0.0455, the error of black images, for 600 steps whatever the rest; tanh is at 0.0108 after 150.

At size cpu learning rates fall from 2e-3 to 1e-4 along a cosine: squared error of Sprites' test images 0.0023, against 0.0032 with the published 5e-4 to 3.34e-4 and
the same five epochs; one seed each.
"""

from causal_ctx import config


def get_config(arguments: str = ""):
    """The config for "DATA", "SIZE" or "DATA,SIZE"."""
    return config.transition(arguments, "mcq_vae")
