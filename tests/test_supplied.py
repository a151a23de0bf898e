"""Which supplied config makes a run, and how it differs from the publication."""

import shlex

import pytest

from causal_ctx import config as configs
from causal_ctx import supplied
from causal_ctx.config import flat


def made_by(command: str) -> dict:
    """The config that the flags of a command describe, its workdir aside."""
    *start, first = shlex.split(command)[:4]
    file, _, arguments = first.removeprefix("--config=configs/").partition(":")
    config = supplied.module(supplied.CONFIGS, file.removesuffix(".py")).get_config(arguments)
    for flag in shlex.split(command)[4:-1]:
        name, _, value = flag.removeprefix("--config.").partition("=")
        kind = type(flat(config.to_dict())[name])
        config.update_from_flattened_dict({name: tuple(type(flat(config.to_dict())[name][0])(v) for v in value.split(",")) if kind is tuple else kind(value)})
    return flat(config.to_dict())


@pytest.mark.parametrize("name, arguments, fields", [
    ("quad_dependent", "cpu", {"seed": 3, "objective.beta": 2.0}),
    ("quad_dependent", "fast", {}),
    ("quad_independent", "paper", {"method": "base_pooled"}),
    ("mnist", "tiny", {"data.path": "a folder; with spaces"}),
    ("ct_vae", "quad,cpu", {"model.widths": (8, 16, 32)}),
])
def test_the_command_makes_the_config_again(name, arguments, fields):
    config = supplied.module(supplied.CONFIGS, name).get_config(arguments)
    config.update_from_flattened_dict(fields)
    command = supplied.command(flat(config.to_dict()), "runs/a b")
    assert made_by(command) == flat(config.to_dict()) and command.endswith("'--workdir=runs/a b'")
    assert command.count("--config.") == len(fields) and f"configs/{name}.py:{arguments}" in command


def test_what_no_supplied_config_makes_has_no_command():
    assert supplied.command({"method": "magic"}, "w") == "" and supplied.unlike_published({"method": "magic"}) == {}


def test_fields_that_are_not_as_published_are_told_with_both_values():
    fields = flat(supplied.module(supplied.CONFIGS, "quad_dependent").get_config("paper").to_dict())
    told = supplied.unlike_published(fields | {"seed": 4, "objective.beta": 2.0, "data.path": "x", "evaluation.projections": 3})
    assert told == {"objective.beta": (2.0, 1.0), "model.noise_mixing": ("block", "reference"), "model.module_normalisation": ("generated", "batch"),
                    "model.backbone_normalisation": ("generated", "batch")}
    assert all(name in flat(configs.default("transition").to_dict()) for name in supplied.PUBLISHED["transition"])
    assert supplied.unlike_published(fields | {"data.name": "unknown"}) == {}
    assert supplied.unlike_published(fields | {"method": "base_pooled"}) == {"model.backbone_normalisation": ("generated", "batch")}
    assert supplied.unlike_published(flat(supplied.module(supplied.CONFIGS, "folder").get_config("cpu").to_dict())) == {}


def test_the_source_in_the_runs_own_folder_is_no_flag():
    fields = flat(configs.transition("quad,tiny", "ct_vae").to_dict())
    assert "init_from" not in supplied.command(fields | {"init_from": "runs/ct/mcq_vae"}, "runs/ct")
    assert "--config.init_from=runs/ct/other" in supplied.command(fields | {"init_from": "runs/ct/other"}, "runs/ct")
    assert "--config.init_from=elsewhere/mcq_vae" in supplied.command(fields | {"init_from": "elsewhere/mcq_vae"}, "runs/ct")


def test_a_config_file_that_is_not_there_is_said():
    with pytest.raises(FileNotFoundError, match="nowhere.py is not there"):
        supplied.module(supplied.CONFIGS, "nowhere")
