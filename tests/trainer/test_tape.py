"""A step recorded and replayed without Python gives the bits of the plain one; see `tape`."""

import sys

import pytest
import torch
from conftest import identical
from recorded import CONFIGS, FAMILY, METHODS, NOT_RECORDED
from tape import Refused, Tape, TapeRecorder

from samlib.sam.geometry import GEOMETRIES
from samlib.sam.masks.by_name import MASKS
from samlib.trainer.config import NO_PERTURBATION, OPTIMIZERS
from samlib.trainer.cuda_graphs import Replayed
from samlib.trainer.loop import Trainer
from samlib.trainer.one_run import train

pytestmark = pytest.mark.usefixtures("few_tested")


@pytest.fixture
def capturable(monkeypatch):
    """Has AdamW count its steps on the device, as on a GPU, or on the host."""
    adamw = torch.optim.AdamW
    # The module, which a function of that name hides.
    module = sys.modules["torch.optim.adam"]
    monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda **_: ["cpu"])

    def switch(on):
        monkeypatch.setattr(
            torch.optim, "AdamW", lambda p, **options: adamw(p, **options | {"capturable": on})
        )

    switch(True)
    return switch


@pytest.fixture
def on_tape(monkeypatch):
    """Has runs replay their steps from tapes, once called; the recorders of their epochs."""
    made = []

    def switch(recorder=TapeRecorder):
        def replayed(self, step):
            if self.stepper and not self.stepper.recordable:
                return step
            made.append(recorder())
            return Replayed(step, made[-1])

        monkeypatch.setattr(Trainer, "replayed", replayed)
        return made

    return switch


def left(config):
    """What a run leaves: weights and buffers, what optimizer and member keep, curves."""
    runs = []
    curves = train(config, on_epoch=runs.append)["curves"]
    run = runs[-1]
    kept = run.stepper and run.stepper.state_dict()
    return run.model.state_dict(), run.optimizer.state_dict()["state"], kept, curves


@pytest.mark.parametrize("method", METHODS)
def test_a_replayed_run_is_the_plain_one_bit_for_bit(method, capturable, on_tape):
    config = CONFIGS[method].replace(epochs=2)
    plain, made = left(config), on_tape()
    assert identical(left(config), plain)
    # Anew every epoch, and never refused.
    assert [(len(r.tapes), r.refused) for r in made] == [(1, None)] * config.epochs


@pytest.mark.parametrize("member", FAMILY)
def test_so_is_one_of_every_member_of_the_family(member, capturable, on_tape):
    config = CONFIGS[member]
    plain, made = left(config), on_tape()
    assert identical(left(config), plain)
    assert all(recorder.refused is None for recorder in made)
    if config.member in NOT_RECORDED:
        assert not made
    else:  # one recording for every plan that an epoch has twice
        assert sum(len(recorder.tapes) for recorder in made) >= config.epochs


class Failing(TapeRecorder):
    """A recorder whose captures end as one that CUDA invalidates: with nothing done, and late."""

    def record(self, call):
        super().record(call)
        raise RuntimeError("the capture was invalidated")


@pytest.mark.filterwarnings("ignore:this process runs without CUDA graphs")
@pytest.mark.parametrize("method", ["only_norm", "redrawn", "adamw", "vasso", "looksam", "msam"])
def test_a_recording_that_fails_changes_nothing_but_what_is_said(method, capturable, on_tape):
    config = CONFIGS[method]
    plain, made = left(config), on_tape(Failing)
    assert identical(left(config), plain)
    tried = [(r.refused, len(r.tapes)) for r in made if r.tapes]
    assert set(tried) == {("a step cannot be recorded: the capture was invalidated", 1)}


def test_methods_are_of_every_kind():
    configs = [CONFIGS[name] for name in METHODS]
    assert {c.optimizer for c in configs} == set(OPTIMIZERS)
    assert {c.geometry for c in configs} == {NO_PERTURBATION, *GEOMETRIES}
    assert {c.batchnorm for c in configs} == {"both", "first"}
    others = {mask for mask in MASKS if mask.startswith("blocks") or mask.endswith("_alpha")}
    assert {c.mask for c in configs} >= MASKS.keys() - others


def test_a_count_of_steps_on_the_host_is_found(capturable, on_tape):
    """What a graph would not advance: AdamW that is not capturable reads it every step."""
    capturable(False)
    on_tape()
    with pytest.raises(Refused, match="_local_scalar_dense"):
        train(CONFIGS["adamw"])


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.masked_select(x, x > 0),
        lambda x: torch.tensor([1.0, 2.0]),
        lambda x: x.to("meta"),
        lambda x: torch.equal(x, x),
    ],
)
def test_what_a_capture_forbids_is_refused(call):
    x = torch.arange(4.0)
    with pytest.raises(Refused), Tape():
        call(x)


def test_a_recording_computes_nothing_and_a_replay_all():
    weight, seen = torch.ones(3, requires_grad=True), torch.zeros(3)

    def step():
        loss = (weight * 2).square().sum()
        weight.grad = None
        loss.backward()
        with torch.no_grad():
            weight.sub_(weight.grad, alpha=0.125)
            seen.add_(1)

    replay = TapeRecorder().record(step)
    assert weight.tolist() == [1.0] * 3
    assert seen.tolist() == [0.0] * 3
    replay()
    replay()
    assert weight.tolist() == [0.0] * 3, "1 - 8 / 8 is zero, and stays"
    assert seen.tolist() == [2.0] * 3
