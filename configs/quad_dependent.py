"""Quad with causally dependent factors: six concepts (four quadrant colours, size, orientation), nine held-out pairs of interventions.

    python -m causal_ctx.main --config=configs/quad_dependent.py:cpu --workdir=runs/quad

Why the defaults are what they are: size :cpu with 8 epochs (--config.train.epochs=8), seed 0, protocol strict; floor of the data 0.030 / 0.028, `base_pooled` 0.148 / 0.191.

    noise_mixing  normalisation                      micro-batches  composition  concept  composition  bits per pixel in / out
    block         generated                          one context    reference    0.071    0.095        1.097 / 1.159   the default
    block         generated                          one context    cut          0.071    0.092        1.097 / 1.186   weights of row 1
    reference     generated                          one context    reference    0.075    0.102        1.180 / 1.262
    reference     generated                          one context    cut          0.075    0.101        1.180 / 1.281   weights of row 3
    block         generated module, group backbone   one context    reference    0.102    0.131        1.207 / 1.314
    block         generated                          mixed          reference    0.125    0.164        0.974 / 0.996
    block         batch                              one context    reference    0.156    0.167        1.097 / 1.159   weights of row 1
    reference     batch                              one context    reference    0.175    0.190        1.180 / 1.262   the published setting
    block         batch                              mixed          reference    0.208    0.217        0.974 / 0.996   weights of row 6

Batch-free `group` everywhere, mixed, was screened at 10 epochs of 512 images a step: 0.291 / 0.294, 1.087 / 1.149. One seed each: differences of 0.005 say nothing.
"""

from causal_ctx import config


def get_config(size: str = "paper"):
    """The config at size "paper", "cpu" or "tiny"."""
    return config.resize(config.default(), size)
