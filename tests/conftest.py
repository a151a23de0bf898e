"""A strict test session: eight CPU devices, no silent rank promotion, fixed seeds."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs here run for milliseconds and compile for seconds: less optimised ones compile more than twice as fast.
QUICKLY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICKLY}"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# Runs of one config compile the same programs again and again; the workers of this session share them, and no other session does.
if "CAUSAL_CTX_TEST_PROGRAMS" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="causal_ctx-programs-")
    os.environ["CAUSAL_CTX_TEST_PROGRAMS"] = _programs.name
jax.config.update("jax_compilation_cache_dir", os.environ["CAUSAL_CTX_TEST_PROGRAMS"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    """Every test caches data under its own folder, never in the user's."""
    monkeypatch.setenv("CAUSAL_CTX_CACHE", str(tmp_path / "cache"))
