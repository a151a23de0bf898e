"""What a config may be: typos and impossible values are refused with one sentence, before anything expensive."""

import json

import pytest

from causal_ctx import config as configs


@pytest.mark.parametrize("field, value, sentence", [
    ("method", "cm_magic", "method is 'cm_magic'; choose one of base"),
    ("data.name", "quads", "data.name is 'quads'; choose one of quad_dependent"),
    ("model.noise_mixing", "none", "model.noise_mixing is 'none'; choose one of reference, block"),
    ("model.module_normalisation", "running", "model.module_normalisation is 'running'; choose one of auto, batch, generated, group"),
    ("train.contexts_per_micro_batch", "two", "choose one of auto, one, mixed"),
    ("objective.energy_penalty", -0.5, "objective.energy_penalty is -0.5; it must be finite and not negative, or -1 for the method's own"),
    ("train.epochs", -1, "train.epochs is -1.0; it must be positive and finite"),
    ("data.train_per_context", 0, "data.train_per_context is 0; it must be positive"),
    ("train.learning_rate", float("nan"), "train.learning_rate is nan; it must be positive"),
    ("objective.beta", float("inf"), "objective.beta is inf; it must be finite"),
    ("seed", 2**40, "seed is 1099511627776; give a number below 2^32"),
    ("evaluation.calibration_images", 1, "must be at least 2, since one image has no variance"),
    ("objective.beta", -0.5, "objective.beta is -0.5; it must be finite and not negative"),
    ("data.validation_fraction", 1.5, "data.validation_fraction is 1.5; it must lie between 0 and 1"),
    ("data.resolution", 60, "data.resolution is 60; the conv64 backbone halves it four times, so give a multiple of 16"),
    ("model.backbone", "conv28", "data.resolution is 64; the conv28 backbone takes 28"),
    ("model.depth", 1, "model.depth is 1; it counts width points, so give at least 2"),
    ("train.batch_size", 100, "train.batch_size is 100, no multiple of train.micro_batch 64"),
    ("data.held_out_per_context", 2, "data.held_out_per_context is 2; the data floor compares two halves"),
])
def test_impossible_values_are_refused_with_a_sentence(field, value, sentence):
    config = configs.default()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(configs.ConfigError) as error:
        configs.validate(config)
    assert sentence in str(error.value) and "\n" not in str(error.value) and str(error.value).endswith(".")


def test_batch_must_divide_over_devices():
    configs.validate(configs.default(), num_devices=8)
    with pytest.raises(configs.ConfigError, match="train.micro_batch is 64, not divisible by 6 devices; give a multiple of 6."):
        configs.validate(configs.default(), num_devices=6)


def test_unknown_fields_and_wrong_types_are_refused():
    config = configs.default()
    with pytest.raises((AttributeError, KeyError), match="epoch"):
        config.train.epoch = 3
    with pytest.raises(TypeError):
        config.train.epochs = "many"


@pytest.mark.parametrize("size", configs.SIZES)
def test_sizes_are_valid_and_survive_json(size):
    config = configs.resize(configs.default(), size)
    configs.validate(config)
    assert configs.from_json(configs.to_json(config)).to_dict() == config.to_dict()


def test_a_choice_that_is_younger_than_a_run_is_the_published_one():
    config = configs.default()
    config.method = "cm_shared_noise"
    fields = json.loads(configs.to_json(config))
    assert configs.from_json(json.dumps(fields)).objective.energy_penalty == -1
    del fields["objective"]["energy_penalty"]
    read = configs.from_json(json.dumps(fields))
    assert (read.objective.energy_penalty, read.objective.moment_penalty, read.model.posterior) == (0, -1, "auto")


def test_one_image_is_enough_where_none_are_normalised_together():
    config = configs.default()
    config.method, config.model.backbone_normalisation, config.model.concept_width = "base_pooled", "group", 2  # there is no module to normalise
    config.train.micro_batch = config.evaluation.calibration_images = 1
    configs.validate(config)
    config.method, config.model.module_normalisation = "cm_end_to_end", "batch"
    with pytest.raises(configs.ConfigError, match="must be at least 2, since one image has no variance"):
        configs.validate(config)
    config.train.micro_batch = 2  # nothing samples with statistics of its own
    configs.validate(config)


def test_unknown_size_and_unreadable_config():
    with pytest.raises(configs.ConfigError, match="Size 'huge' is unknown; choose one of paper, cpu, tiny"):
        configs.resize(configs.default(), "huge")
    with pytest.raises(configs.ConfigError, match="cannot be read: train.epochz is no field today"):
        configs.from_json('{"train": {"epochz": 3}}')
    with pytest.raises(configs.ConfigError, match="cannot be read"):
        configs.from_json('{"train": {"epo')


def test_differences_name_the_fields():
    ours, theirs = configs.default(), configs.default()
    ours.train.epochs, ours.method = 7, "base"
    assert configs.differences(ours.to_dict(), theirs.to_dict()) == ["method ('cm_end_to_end' there, 'base' here)", "train.epochs (100.0 there, 7.0 here)"]
    assert configs.differences(theirs.to_dict(), theirs.to_dict()) == []


@pytest.mark.parametrize(("features", "widths"), [("2", {"concept_width": 2, "depth": 2}), ("1, 2, 3", {"concept_width": 3, "noise_width": 1, "depth": 4})])
def test_group_normalisation_needs_three_features_per_concept(features, widths):
    """In every layer that is normalised: of two features it leaves which is the larger."""
    config = configs.default()
    config.model.update(module_normalisation="group", **widths)
    with pytest.raises(configs.ConfigError, match=f"A concept has {features} features in layers of .* between model.noise_width"):
        configs.validate(config)
    config.model.module_normalisation = "batch"
    configs.validate(config)
