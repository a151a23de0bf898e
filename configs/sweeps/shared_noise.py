"""Ablation of our own method: the told encoder, the energy penalty and the moment penalty, each alone, each left out, all and none, five seeds.

    ./launch/local.sh --mode=sweep --config=configs/sweeps/shared_noise.py:cpu --config.axes.seed=0,1,2 --workdir=runs/parts

Normalisation, mixed micro-batches and the composition rule "cut" are in all of them. Each of these left out of the whole, and other weights of a penalty:

    SWEEP="--mode=sweep --config=configs/sweeps/shared_noise.py:cpu --config.axes.seed=0,1,2"
    WHOLE="--config.axes.model.posterior=told --config.axes.objective.energy_penalty=2.0 --config.axes.objective.moment_penalty=4.0"
    ./launch/local.sh $SWEEP $WHOLE --config.run.train.contexts_per_micro_batch=one --workdir=runs/one_context
    ./launch/local.sh $SWEEP $WHOLE --config.run.model.module_normalisation=generated --config.run.model.backbone_normalisation=generated --workdir=runs/generated
    ./launch/local.sh $SWEEP $WHOLE --config.run.model.composition=reference --workdir=runs/reference
    ./launch/local.sh $SWEEP --config.axes.model.posterior=told --config.axes.objective.moment_penalty=4.0 --config.axes.objective.energy_penalty=1.0,2.0,4.0 \
        --workdir=runs/energy

They are 24, 3, 3, 3 and 9 runs.
"""

from causal_ctx import config, methods, sweep


def get_config(size: str = "paper"):
    """The sweep on quad_dependent at size "paper", "cpu" or "tiny"."""
    penalties = {f"objective.{name}_penalty": (0.0, methods.SHARED_NOISE[f"objective.{name}_penalty"]) for name in ("energy", "moment")}
    parts = {"method": ("cm_shared_noise",), "model.posterior": ("untold", "told"), **penalties}
    return sweep.sweep(config.resize(config.default(), size), {**parts, "seed": range(5)})
