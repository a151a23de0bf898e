"""The same training step is a program for TPUs and GPUs: lowered ahead of time, on a machine that has none."""

import numpy as np
import pytest

from causal_ctx import ensemble, parallel
from causal_ctx.start import build_feed, build_trainer, initial_state
from tests import tiny, tiny_codes


@pytest.mark.parametrize("method", ["cm_end_to_end", "mcq_vae", pytest.param("ct_vae", marks=pytest.mark.slow)])
def test_the_step_lowers_without_dynamic_shapes(method):
    own, dataset = (tiny.config(), tiny.dataset()) if method == "cm_end_to_end" else (tiny_codes.config(method), tiny_codes.dataset())
    mesh, trainer = parallel.data_mesh(), build_trainer(own, dataset)
    states = ensemble.stack([initial_state(own, dataset, mesh)])
    batch = build_feed([own], dataset, mesh, states).batch(0, "vmap")
    traced = ensemble.compiled("vmap", trainer, mesh, size=1).trace(states, batch, np.ones(1, bool))
    for platform in ("tpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "tensor<?" not in text
        assert ("stablehlo.convolution" in text) == (method != "ct_vae"), f"convolutions of {method} on {platform}"
