"""Compiled programs are kept where the user has not said otherwise."""

import pytest

from causal_ctx import programs
from causal_ctx.data import cache

FIELDS = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def config(monkeypatch):
    """What would be set, in place of setting it."""
    values = dict.fromkeys(FIELDS)

    class Config:
        jax_compilation_cache_dir = property(lambda _: values["jax_compilation_cache_dir"])
        update = staticmethod(values.__setitem__)

    monkeypatch.setattr(programs.jax, "config", Config())
    return values


def test_programs_are_kept_below_the_cache_folder_by_processor(config, tmp_path):
    programs.keep()
    assert config["jax_compilation_cache_dir"] == str(cache.root() / "programs" / programs.processor())
    assert 0 < config["jax_compilation_cache_max_size"] and config["jax_persistent_cache_min_compile_time_secs"] < 1
    config["jax_compilation_cache_dir"] = None
    programs.keep(str(tmp_path))
    assert config["jax_compilation_cache_dir"].startswith(str(tmp_path))


def test_a_folder_that_the_user_gave_stays(config):
    config["jax_compilation_cache_dir"] = "/theirs"
    programs.keep()
    assert config["jax_compilation_cache_dir"] == "/theirs" and config["jax_compilation_cache_max_size"] is None


def test_processors_of_other_abilities_have_other_names(monkeypatch, tmp_path):
    told = lambda text: monkeypatch.setattr(programs.Path, "read_text", lambda _: text)
    told("model name: x\nflags : avx2\n")
    old = programs.processor()
    told("model name: x\nflags : avx2 avx512\n")
    assert programs.processor() != old and "/" not in old

    def absent(_):
        raise FileNotFoundError

    monkeypatch.setattr(programs.Path, "read_text", absent)
    assert programs.processor()
