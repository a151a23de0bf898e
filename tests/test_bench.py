"""What the bench counts and says; how fast anything is, is no matter here."""

import json

import jax
import jax.numpy as jnp
import pytest

from causal_ctx import bench, config
from causal_ctx.flops import matrix_flops
from causal_ctx.models import convolution
from tests import tiny

shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_product_and_its_gradients_are_counted():
    product = lambda a, b: (a @ b).sum()
    assert matrix_flops(product, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
    assert matrix_flops(jax.value_and_grad(product, argnums=(0, 1)), shape(3, 5), shape(5, 7)) == 3 * 2 * 3 * 5 * 7


@pytest.mark.parametrize("name, pixels, taps", [("strided_conv", 4 * 4, 16), ("transposed_conv", 8 * 8, 16), ("same_conv", 8 * 8, 9)])
def test_convolutions_count_the_same_in_either_form(name, pixels, taps):
    kernel = shape(3, 3, 3, 5) if name == "same_conv" else shape(4, 4, 3, 5)
    wanted = 2 * 2 * pixels * 5 * taps * 3
    forms = [getattr(convolution, form) for form in (name, f"_{name}_native", f"{name}_as_matmul")]
    assert [matrix_flops(form, shape(2, 8, 8, 3), kernel) for form in forms] == [wanted] * 3


def test_loops_count_every_turn_and_branches_their_mean():
    a = shape(4, 4)
    assert matrix_flops(lambda a: jax.lax.scan(lambda c, _: (c @ c, None), a, None, length=6)[0], a) == 6 * 2 * 4**3
    assert matrix_flops(lambda i, a: jax.lax.switch(i, [lambda: a @ a, lambda: a]), jax.ShapeDtypeStruct((), jnp.int32), a) == 4**3
    assert matrix_flops(jax.jit(jax.checkpoint(lambda a: a @ a)), a) == 2 * 4**3


@pytest.mark.slow
def test_a_config_is_timed_in_all_that_it_does(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "ROUNDS", 2)
    monkeypatch.setitem(bench.SIDE, "cpu", 16)
    returned = bench.run(tiny.config(), tmp_path)
    results = json.loads((tmp_path / "bench.json").read_text())
    tasks, out = results["tasks"], capsys.readouterr().out
    assert json.loads(json.dumps(returned)) == results
    assert {"training", "batches for it", "evaluation", "generation", "matrix product, float32"} <= tasks.keys()
    assert all(len(task["seconds"]) == 2 and min(task["seconds"]) > 0 for task in tasks.values())
    assert tasks["training"]["flops"] > 0 and tasks["training"]["compile_seconds"] > 0 and tasks["training"]["memory_bytes"] > 0
    assert "of ceiling" in out and "generation: " in out and "times as fast as a loop" in out


def test_what_there_is_no_pytorch_program_of_is_refused(monkeypatch, tmp_path):
    with pytest.raises(config.ConfigError, match="compares cm_end_to_end with model.depth 2, not base"):
        bench.run(tiny.config(method="base"), tmp_path, "torch")
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(config.ConfigError, match=r"needs PyTorch, which is not installed; install causal_ctx\[bench\]"):
        bench.run(tiny.config(), tmp_path, "torch")


def test_speeds_are_ratios_of_the_same_turn():
    row = lambda *seconds: {"seconds": list(seconds), "images": 8, "flops": None}
    lines = list(bench.ratios({"tasks": {"training": row(1, 2, 1), "training, PyTorch": row(3, 4, 1), "act": row(1, 1, 1), "act, a loop": row(5, 5, 5)}}))
    assert lines == ["training: 2.00 (1.00 to 3.00) times as fast as PyTorch.", "act: 5.00 (5.00 to 5.00) times as fast as a loop."]


def test_a_smaller_config_has_the_same_shapes():
    whole = config.default()
    small = bench.smaller(whole)
    assert small.data.train_per_context == 2_048 and whole.data.train_per_context == 50_000
    assert small.model == whole.model and small.train == whole.train
