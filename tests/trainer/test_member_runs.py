"""Members of the family in whole runs: recorded, resumed, spread over workers, and refused."""

import pytest
from conftest import identical, one_line, repeatable
from parallel_worker import launch
from recorded import BASE, NOT_RECORDED
from test_distributed import SAM, VIT, near
from test_one_run import interrupted, tiny

from samlib.errors import ConfigError
from samlib.sam.family import MEMBERS
from samlib.trainer import checkpoint
from samlib.trainer.config import RunConfig
from samlib.trainer.loop import Trainer
from samlib.trainer.one_run import train

ON = {"geometry": "elementwise_l2", "rho": 0.5, "mask": "only_norm"}
ONCE = {"eval_every": 99}  # evaluated at the end alone


@pytest.mark.parametrize("member", sorted(NOT_RECORDED))
def test_whose_steps_are_not_recorded_is_said(member, monkeypatch):
    runs = []
    train(BASE.replace(member=member, epochs=1, **ON), on_epoch=runs.append)
    monkeypatch.setattr(Trainer, "_gpu", True)
    assert runs[0].replays == f"steps of member {member} are not recorded"
    step = object()
    assert runs[0].replayed(step) is step


@pytest.mark.usefixtures("few_tested")
@pytest.mark.parametrize("member", MEMBERS)
def test_a_resumed_member_ends_as_an_uninterrupted_one(member, tmp_path):
    config, path = tiny(**ON, member=member, augment="shift", **ONCE), tmp_path / "run.pt"
    whole, theirs = train(config, weights=tmp_path / "whole"), tmp_path / "resumed"
    interrupted(config, path, 2)
    resumed = train(config, checkpoints=path, weights=theirs)
    assert repeatable(resumed) == repeatable(whole)
    assert identical(checkpoint.load(theirs), checkpoint.load(tmp_path / "whole"))


def test_a_member_with_state_on_a_mask_that_chooses_anew_is_resumed(tmp_path):
    """What it remembers is of the coordinates that SSAM-D chose in the first pass of the epoch."""
    changes = {"mask": "dynamic", "mask_every": 1, "sparsity": 0.5, "member": "looksam_mask"}
    changes |= {"train_size": 64, "batch_size": 64, "epochs": 4}  # a step an epoch
    config, path = tiny(**ON | changes, **ONCE), tmp_path / "run.pt"
    whole = train(config)
    interrupted(config, path, 2)
    assert repeatable(train(config, checkpoints=path)) == repeatable(whole)


def test_shares_of_a_source_that_begins_at_zero_are_those_of_the_later_epochs():
    shares = train(tiny(**ON | {"mask": "all", "member": "last"}, **ONCE))["measures"]
    assert sum(shares["tensor_shares"].values()) == pytest.approx(1.0)


def test_members_are_other_runs_and_say_so_in_their_names():
    names = {RunConfig(**ON, member=member).run_id for member in MEMBERS}
    assert len(names) == len(MEMBERS)
    assert RunConfig(**ON, member="msam").run_id.startswith("wrn10_1-msam-elementwise_l2-only_norm")
    assert "sam" not in RunConfig(**ON).run_id


@pytest.mark.usefixtures("few_tested")
def test_members_train_differently_but_from_the_same_start():
    # In few steps some may be the same ones.
    told = MEMBERS.keys() - NOT_RECORDED - {"every_k", "ss_sam"} | {"penalty"}
    losses = {m: train(tiny(**ON, member=m, **ONCE))["curves"]["train_loss"][-1] for m in told}
    assert len(set(losses.values())) == len(losses)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"member": "samm"}, "unknown member 'samm'"),
        ({"member": "last", "batchnorm": "first"}, "batchnorm 'first' needs a first pass"),
        ({"member": "msam", "mask": "dynamic"}, "mask dynamic needs the gradient of a first pass"),
        ({"member": "vasso", "radius_over": "all"}, "radius_over 'all' needs everything's"),
        ({"member": "usam", "geometry": "elementwise_linf"}, "a free radius leaves out a norm"),
        ({"member": "last", "geometry": "none", "mask": "all", "rho": 0}, "member means nothing"),
        ({"member": "penalty", "radius_over": "all"}, "radius_over 'mask'"),
    ],
)
def test_pairs_are_refused_before_anything_is_trained(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        RunConfig(**ON | changes)
    one_line(caught)


def test_a_momentum_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="the optimizer has momentum 0") as caught:
        train(tiny(**ON, member="msam", momentum=0.0))
    one_line(caught)


@pytest.mark.slow
def test_two_workers_of_a_member_are_one_process(tmp_path):
    whole, own = ("vasso", "gsam", "looksam", "ae_sam"), ("last", "msam", "random_sam")
    sgd = VIT | SAM | {"optimizer": "sgd", "lr": 0.05, "train_size": 40}
    jobs = [{"config": sgd | {"member": m}, "perturbation": "synchronised"} for m in whole]
    jobs += [{"config": sgd | {"member": m}, "perturbation": "worker"} for m in own]
    jobs += [{"config": sgd | {"member": m}, "perturbation": "worker"} for m in whole[:2]]
    found = launch(tmp_path, jobs)
    for job, record in list(zip(jobs, found, strict=True))[: -len(whole[:2])]:
        assert near(record, train(RunConfig(**job["config"]))), job
    for record in found[-2:]:
        assert "its perturbation must be synchronised" in record["error"]
