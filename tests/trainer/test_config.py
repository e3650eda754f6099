"""RunConfig: what it accepts, what it says of what it does not, and the names of runs."""

import dataclasses
import json
import math

import pytest
from conftest import one_line
from helpers import CHOICES, FIELDS, OTHER, TOGETHER

from samlib.errors import ConfigError
from samlib.trainer.config import RANGES, RunConfig

# One value away from the default for every field, valid together with BASE.
# Of these every other field is allowed.
BASE = {"geometry": "elementwise_l2", "mask": "random", "epochs": 7}


def test_run_ids_do_not_change():
    """Records are found by these: a renamed field or another default would orphan them all."""
    assert RunConfig().run_id == "wrn10_1-none-s0-44136fa355"
    later = ("warmup_epochs", "clip_norm", "updated", "decayed", "member")
    other = {k: v for k, v in (BASE | TOGETHER).items() if k not in later}
    assert RunConfig(**other).run_id == "resnet8-fisher-dynamic-rho0.5-s1-4d0bb8ac61"
    few = RunConfig(
        **{"model": "resnet8", "geometry": "elementwise_l2", "mask": "no_norm", "rho": 1e-3},
        **{"seed": 12, "train_size": 1000, "validation_size": 297, "epochs": 30, "lr": 1},
    )
    assert few.run_id == "resnet8-elementwise_l2-no_norm-rho0.001-s12-77bdc90734"


def test_defaults_do_not_change():
    """They are left out of ids, so changing one would give other runs an old name."""
    assert FIELDS == {
        "dataset": "digits",
        "model": "wrn10_1",
        "seed": 0,
        "geometry": "none",
        "mask": "all",
        "rho": 0.0,
        "eta": None,
        "sparsity": None,
        "mask_every": 5,
        "mask_samples": 1024,
        "radius_over": "mask",
        "batchnorm": "both",
        "start": 0,
        "end": None,
        "train_size": None,
        "validation_size": 0,
        "label_noise": 0.0,
        "augment": "none",
        "epochs": 1,
        "batch_size": 128,
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "label_smoothing": 0.1,
        "precision": "fp32",
        "eval_every": 1,
        "warmup_epochs": 0,
        "clip_norm": 0.0,
        "updated": "all",
        "decayed": "all",
        "member": "sam",
    }


def test_every_field_has_an_other_value_here():
    assert OTHER.keys() == FIELDS.keys()


def test_ids_differ_between_all_single_changes():
    changed = (RunConfig(**BASE | {field: value}) for field, value in OTHER.items())
    ids = [RunConfig(**BASE).run_id, *(config.run_id for config in changed)]
    assert len(set(ids)) == len(ids)


def test_whole_numbers_pass_as_floats_and_make_no_other_run():
    one = RunConfig(geometry="l2", rho=1, lr=1)
    assert one == RunConfig(geometry="l2", rho=1.0, lr=1.0)
    assert one.run_id == RunConfig(geometry="l2", rho=1.0, lr=1.0).run_id
    assert type(one.rho) is float


@pytest.mark.parametrize("config", [RunConfig(), RunConfig(**BASE | TOGETHER)])
def test_round_trip_through_json(config):
    fields = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    assert RunConfig.from_dict(fields) == config
    assert fields.keys() == FIELDS.keys()


def test_older_records_lack_fields_and_take_their_default():
    assert RunConfig.from_dict({"seed": 3}) == RunConfig(seed=3)
    with pytest.raises(ConfigError, match=r"unknown field 'sead'; valid: .*seed") as caught:
        RunConfig.from_dict({"sead": 3})
    one_line(caught)


def test_replace_checks_again():
    assert RunConfig(**BASE).replace(rho=0.1).rho == 0.1
    with pytest.raises(ConfigError):
        RunConfig(**BASE).replace(rho=-0.1)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1


@pytest.mark.parametrize("field", CHOICES)
def test_unknown_names_list_the_valid_ones(field):
    with pytest.raises(ConfigError) as caught:
        RunConfig(**BASE | {field: "misspelt"})
    message = one_line(caught)
    assert "'misspelt'" in message
    assert ", ".join(CHOICES[field]) in message


@pytest.mark.parametrize("field", CHOICES)
def test_every_valid_name_is_accepted(field):
    for name in CHOICES[field]:
        base = {} if name == "none" and field == "geometry" else BASE
        assert getattr(RunConfig(**base | {field: name}), field) == name


NUMBERS = {
    "seed": [-1],
    "rho": [-1e-9],
    "eta": [-1],
    "sparsity": [-0.1, 1.0],
    "mask_every": [0],
    "mask_samples": [0],
    "start": [-1],
    "end": [-1],
    "train_size": [0],
    "validation_size": [-1],
    "label_noise": [-0.1, 1.1],
    "epochs": [0],
    "batch_size": [0],
    "lr": [0, -0.1],
    "momentum": [-0.1],
    "weight_decay": [-1e-4],
    "label_smoothing": [-0.1, 1.1],
    "eval_every": [0],
    "warmup_epochs": [-1, 8],
    "clip_norm": [-0.1],
}


@pytest.mark.parametrize("field", NUMBERS)
def test_numbers_out_of_range_are_named(field):
    integer = isinstance(OTHER[field], int)
    wrong = [*NUMBERS[field], True, "3", [3], math.nan, math.inf, *([1.0] if integer else [])]
    for value in wrong:
        with pytest.raises(ConfigError) as caught:
            RunConfig(**BASE | {field: value})
        message = one_line(caught)
        assert field in message
        assert repr(value) in message or str(value) in message


def test_fields_that_contradict_each_other():
    for fields, message in (
        ({"rho": 0.1}, "rho means nothing without a geometry"),
        ({"mask": "only_norm"}, "mask means nothing without a geometry"),
        ({"eta": 0.1}, "eta means nothing without a geometry"),
        ({"radius_over": "all"}, "radius_over means nothing without a geometry"),
        (
            {"geometry": "l2", "rho": 0.1, "radius_over": "all"},
            "radius_over 'all' changes nothing with mask all",
        ),
        (
            BASE | {"geometry": "elementwise_linf", "mask": "only_norm", "radius_over": "all"},
            "nor where p is infinite",
        ),
        ({"batchnorm": "first"}, "batchnorm means nothing without a geometry"),
        ({"start": 1}, "start means nothing without a geometry"),
        ({"end": 1}, "end means nothing without a geometry"),
        (BASE | {"start": 3, "end": 2}, "start 3 and end 2 leave none of the 7 epochs"),
        (BASE | {"start": 3, "end": 3}, "start 3 and end 3 leave none of the 7 epochs"),
        (BASE | {"start": 7}, "start 7 and end None leave none of the 7 epochs"),
        (BASE | {"geometry": "l2", "eta": 0.1}, "geometry l2 has no eta"),
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum is sgd's, and optimizer is adamw"),
        ({"precision": "fp16"}, "fp16 needs a loss scaler"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            RunConfig(**fields)
        one_line(caught)


def test_an_integer_beyond_all_floats_is_refused():
    with pytest.raises(ConfigError, match="lr is too large"):
        RunConfig(lr=10**400)


def test_a_seed_beyond_the_generators_is_refused():
    with pytest.raises(ConfigError, match="seed must be at least 0 and at most 4294967295, not"):
        RunConfig(seed=2**70)


def test_a_sparsity_the_mask_would_ignore_is_refused():
    with pytest.raises(ConfigError) as caught:
        RunConfig(geometry="l2", rho=0.1, mask="only_norm", sparsity=0.5)
    assert one_line(caught) == (
        "sparsity applies to the masks random, random_redrawn, fisher, dynamic; mask is only_norm"
    )


def test_every_number_has_a_range_and_says_which():
    numbers = {name for name, value in OTHER.items() if not isinstance(value, str)}
    assert RANGES.keys() == NUMBERS.keys() == numbers
    for field, value, said in (
        ("lr", 0, "lr must be above 0, not 0.0"),
        ("sparsity", 1, "sparsity must be at least 0 and below 1, not 1.0"),
        ("label_noise", 1.5, "label_noise must be at least 0 and at most 1, not 1.5"),
        ("epochs", 0, "epochs must be at least 1, not 0"),
    ):
        with pytest.raises(ConfigError) as caught:
            RunConfig(**BASE | {field: value})
        assert one_line(caught) == said


def test_unknown_fields_are_refused_with_the_valid_ones_in_order():
    with pytest.raises(ConfigError, match="valid: dataset, model, seed, geometry"):
        RunConfig.from_dict({"rhoo": 1.0})
