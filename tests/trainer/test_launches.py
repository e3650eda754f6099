"""How many kernels a step starts, network by network, counted where nothing is computed.

On the meta device tensors have shapes and no values: whatever would read one raises, and a tensor
of the host among them is refused, as it is in a CUDA graph.
"""

from contextlib import nullcontext

import pytest
import torch
from recorded import NOT_RECORDED
from tape import Refused, Tape

from samlib import models
from samlib.bench import timing
from samlib.sam.family import MEMBERS
from samlib.sam.perturbation import Plan
from samlib.trainer import loop
from samlib.trainer.build import build_model
from samlib.trainer.config import RunConfig

META = torch.device("meta")
METHODS = {
    "base": {},
    "SAM": {"geometry": "l2", "rho": 0.1},
    "SAM-ON": {"geometry": "l2", "rho": 0.1, "mask": "only_norm"},
    "stages 2, 3": {"geometry": "l2", "rho": 0.1, "mask": "blocks_23"},
    "half of all": {"geometry": "l2", "rho": 0.1, "mask": "random", "sparsity": 0.5},
}
# Calls that compute in the second step; a list of tensors is one call.
SMALL = {"base": 152, "SAM": 251, "SAM-ON": 247, "stages 2, 3": 233, "half of all": 373}  # wrn10_1
# Perturbed, with what is refreshed now and then, and left out by `when`; on wrn10_1, only norm.
PLANS = (Plan(True, True), Plan(True, True, refresh=True), Plan(True, False))
# A member or a network that is not here is held to reading no value alone.
OF_MEMBERS = {
    "async_sam": (262, 262, 154),
    "downhill": (247, 247, 154),
    "drift_on": (164, 164, 154),
    "eigen_sam": (269, 1710, 154),
    "esam": (246, 246, 151),
    "every_k": (247, 247, 154),
    "felt_by_mask": (269, 269, 154),
    "felt_by_others": (263, 263, 154),
    "fsam": (253, 253, 154),
    "gsam": (313, 313, 154),
    "last": (165, 165, 155),
    "lesam": (164, 164, 154),
    "looksam": (317, 317, 160),
    "looksam_mask": (291, 291, 160),
    "msam": (164, 164, 154),
    "msam_up": (164, 164, 154),
    "obf": (277, 277, 172),
    "random_sam": (164, 164, 154),
    "rho_lr": (247, 247, 154),
    "rho_root_lr": (247, 247, 154),
    "sam": (247, 247, 154),
    "ss_sam": (247, 247, 154),
    "usam": (241, 241, 154),
    "vasso": (251, 251, 154),
}
KERNELS = {  # of SAM and of SAM-ON
    "resnet56": (1327, 1324),
    "resnext29_32x4d": (731, 728),
    "wrn28_10": (653, 648),
    "vit_t": (1478, 1376),
    "vit_s": (1478, 1376),
    "vit_s32": (1478, 1376),
    "resnet50": (1199, 1196),
    "wrn16_4": (389, 384),
    "resnet8": (271, 268),
    "resnext11_4x2d": (347, 344),
    "wrn10_1": (251, 247),
    "vit_micro": (452, 422),
    "vit_mini": (794, 740),
    "vit_t_dyt": (2028, 1925),
    "vit_micro_dyt": (606, 575),
    "wrn10_4_patch4": (251, 247),
    "wrn10_8_patch4": (251, 247),
    "resnet10_4_patch4": (271, 268),
}


@pytest.fixture
def second_step(monkeypatch):
    """The tape of a run's second step, on the meta device."""

    def on_meta(config):
        with META:
            return build_model(config)

    monkeypatch.setattr(timing, "build_model", on_meta)
    # Neither knows the device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    # What the first step alone records chooses by booleans.
    monkeypatch.setattr(loop, "shares", lambda *_: None)

    def recorded(model, plan=None, passes=True, **changes):
        of = {"vit_s32": "imagenet", "resnet50": "imagenet", "vit_micro": "digits"}
        config = RunConfig(dataset=of.get(model, "cifar100"), model=model, batch_size=2)
        run = timing.random_run(config.replace(**changes), META, 2)
        step = run.step(*torch.zeros(2, device=META), [])
        asked = run.stepper and run.stepper.plan(0)  # what is drawn is drawn outside of the step
        batch = run.splits.train_images, run.splits.train_labels, plan or asked
        if passes:  # they fill what a mask or a member remembers, too
            step(*batch)
        else:
            for p in run.model.parameters():
                p.grad = torch.zeros_like(p)
            run.optimizer.step()
        with Tape() as tape:
            step(*batch)
        return tape

    return recorded


@pytest.mark.parametrize("model", models.names())
def test_a_step_reads_no_value_and_starts_as_many_kernels_as_it_did(model, second_step):
    counted = [
        second_step(model, passes=False, **METHODS[name]).kernels for name in ("SAM", "SAM-ON")
    ]
    assert tuple(counted) == KERNELS.get(model, tuple(counted))


@pytest.mark.parametrize("method", METHODS)
def test_so_does_a_step_of_every_kind_of_method(method, second_step):
    assert second_step("wrn10_1", **METHODS[method]).kernels == SMALL[method]


@pytest.mark.parametrize("member", sorted(MEMBERS.keys() - NOT_RECORDED))
def test_so_does_a_step_of_every_plan_of_every_member(member, second_step):
    changes = METHODS["SAM-ON"] | {"member": member}
    counted = [second_step("wrn10_1", plan, **changes).kernels for plan in PLANS]
    assert tuple(counted) == OF_MEMBERS.get(member, tuple(counted))


@pytest.mark.parametrize("wrong", [lambda p: p.sum().item(), lambda p: p + torch.ones(p.shape)])
def test_a_value_read_or_a_tensor_of_the_host_is_found(second_step, monkeypatch, wrong):
    def step(closure, optimizer, *_, **__):
        wrong(optimizer.param_groups[0]["params"][0])
        return closure().detach()

    monkeypatch.setattr(loop, "sam_step", step)
    with pytest.raises((Refused, RuntimeError)):
        second_step("wrn10_1")
