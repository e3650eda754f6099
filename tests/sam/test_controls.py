"""The study's controls: channel scales, parameters fixed or undecayed, recalibrated statistics."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import Net, one_line, small_batch, small_net
from torch import nn

from samlib import geometry, masks
from samlib.errors import ConfigError
from samlib.models import build
from samlib.sam.step import Perturbation, perturbed
from samlib.trainer.build import build_model, build_optimizer
from samlib.trainer.config import RunConfig
from samlib.trainer.diagnostics import QUANTILES, affine_measures, recalibrated
from samlib.trainer.one_run import train

TINY = {"train_size": 80, "validation_size": 40, "epochs": 3, "batch_size": 32, "lr": 0.05}
SCALES = {
    "output_scales": (masks.convolutions, 0),
    "input_scales": (masks.weights, 1),
}


# --- channel scales ------------------------------------------------------------------------------


def scaled(net, names, scales, axis):
    """The network's parameters with each named weight multiplied along an axis."""
    weights = dict(net.named_parameters())
    for name, s in zip(names, scales, strict=True):
        shape = [-1 if d == axis else 1 for d in range(weights[name].ndim)]
        weights[name] = weights[name] * s.view(shape)
    return weights


@pytest.mark.parametrize("name", SCALES)
def test_the_step_is_sams_on_scales_that_are_really_there(name):
    make, axis = SCALES[name]
    net = small_net(torch.float64)
    x, y = small_batch(torch.float64)
    mask = make(net)
    names = [e.name for e in mask.entries]
    ones = [
        torch.ones(e.parameter.shape[axis], dtype=torch.float64, requires_grad=True)
        for e in mask.entries
    ]
    outputs = torch.func.functional_call(net, scaled(net, names, ones, axis), (x,))
    grads = torch.autograd.grad(F.cross_entropy(outputs, y), ones)
    norm = torch.cat([g.flatten() for g in grads]).norm()
    expected = [1 + 0.3 * g / norm for g in grads]
    there = scaled(net, names, expected, axis)

    perturbation = Perturbation(geometry.by_name(name), 0.3, mask)
    with perturbed(lambda: F.cross_entropy(net(x), y), perturbation):
        for n, p in net.named_parameters():
            torch.testing.assert_close(p, there[n], rtol=1e-9, atol=1e-12)


def test_an_output_scale_in_front_of_batch_norm_is_not_felt():
    torch.manual_seed(0)
    net = build("wrn10_1", num_classes=10, in_channels=1)
    x, y = torch.randn(16, 1, 8, 8), torch.randint(10, (16,))
    moved = {}

    def record(found):
        for entry, e in zip(mask.entries, found.eps, strict=True):
            moved[entry.name] = (e.norm() / entry.parameter.detach().norm()).item()

    mask = masks.convolutions(net)
    step = Perturbation(geometry.by_name("output_scales"), 1.0, mask)
    with perturbed(lambda: F.cross_entropy(net(x), y), step, record):
        pass
    in_front = [n for n in moved if n.endswith("conv1.weight") and n != "conv1.weight"]
    assert len(in_front) == 3
    assert all(moved[n] < 1e-4 for n in in_front)
    assert all(moved[n] > 1e-3 for n in moved if n not in in_front)


def test_scales_of_vectors_are_refused_with_the_way_out():
    net = small_net()
    step = Perturbation(geometry.by_name("output_scales"), 0.1, masks.all_parameters(net))
    with (
        pytest.raises(ConfigError, match="use the mask convolutions or weights") as caught,
        perturbed(lambda: F.cross_entropy(net(small_batch()[0]), small_batch()[1]), step),
    ):
        pass
    one_line(caught)


def test_masks_by_layer_type():
    names = [e.name for e in masks.convolutions(Net()).entries]
    assert names == ["conv1.weight", "conv2.weight"]
    assert [e.name for e in masks.weights(Net()).entries] == [*names, "fc.weight"]
    assert masks.weights(build("vit_micro", num_classes=10, in_channels=1, image_size=8)).count


# --- parameters fixed, or not decayed ------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion"])
@pytest.mark.parametrize("mask", ["all", "only_norm"])
def test_fixed_norm_parameters_are_perturbed_but_never_updated(optimizer, mask):
    config = RunConfig(**TINY, optimizer=optimizer, geometry="l2", rho=0.5, mask=mask)
    kept = []

    def look(run):
        kept.append([p.detach().clone() for p in run.model.parameters()])

    record = train(config.replace(updated="no_norm", lr=1e-3), on_epoch=look)
    start = build_model(config)
    norm = {id(e.parameter) for e in masks.only_norm(start).entries}
    for p, end in zip(start.parameters(), kept[-1], strict=True):
        assert torch.equal(p, end) == (id(p) in norm)
    if mask == "only_norm":
        assert record["curves"]["norm_share"] == [1.0] * 3
        plain = train(
            config.replace(updated="no_norm", lr=1e-3, geometry="none", mask="all", rho=0)
        )
        assert plain["curves"]["train_loss"] != record["curves"]["train_loss"]


def test_the_step_zeroes_the_gradients_of_fixed_parameters():
    model = build_model(RunConfig())
    optimizer = build_optimizer(RunConfig(updated="no_norm"), model)
    model.norm1.weight.grad = torch.ones_like(model.norm1.weight)
    optimizer.zero_grad()
    assert model.norm1.weight.grad is None


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion"])
def test_decay_can_spare_the_norm_layers(optimizer):
    config = RunConfig(optimizer=optimizer, weight_decay=0.1, lr=0.01)
    ends = {}
    for decayed in ("all", "no_norm"):
        model = build_model(config)
        step = build_optimizer(config.replace(decayed=decayed), model)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        step.step()
        ends[decayed] = {n: p.detach().clone() for n, p in model.named_parameters()}
    start = dict(build_model(config).named_parameters())
    assert not torch.equal(ends["all"]["norm1.weight"], start["norm1.weight"])
    assert torch.equal(ends["no_norm"]["norm1.weight"], start["norm1.weight"])
    assert torch.equal(ends["no_norm"]["fc.weight"], ends["all"]["fc.weight"])


# --- gamma and beta, recalibrated statistics -----------------------------------------------------


def test_gamma_and_beta_of_each_layer():
    net = small_net()
    with torch.no_grad():
        net.norm1.weight.copy_(torch.tensor([-4.0, 1.0, 2.0, 3.0]))
    found = affine_measures(net)
    assert [layer["layer"] for layer in found["affine"]] == ["norm1", "norm2"]
    first = found["affine"][0]
    assert first["gamma_abs_mean"] == 2.5
    assert len(first["gamma"]) == len(first["beta"]) == len(QUANTILES)
    assert (first["gamma"][0], first["gamma"][-1]) == (-4.0, 3.0)
    assert first["gamma"][QUANTILES.index(0.5)] == 1.5
    with torch.no_grad():
        net.norm2.bias[0] = math.nan
    assert [layer["layer"] for layer in affine_measures(net)["affine"]] == ["norm1"]


def test_recalibrated_statistics_are_those_of_the_inputs_and_only_for_a_while():
    layer = nn.BatchNorm1d(2)
    net = nn.Sequential(layer).train()
    layer.running_mean += 7
    batches = [torch.randn(10, 2) + k for k in range(3)]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with recalibrated(net, batches) as any_statistics:
        assert any_statistics
        assert not net.training
        torch.testing.assert_close(layer.running_mean, torch.stack(batches).mean((0, 1)))
        variances = torch.stack([b.var(0) for b in batches]).mean(0)
        torch.testing.assert_close(layer.running_var, variances)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training
    assert layer.momentum == 0.1


def test_a_network_without_statistics_has_nothing_to_recalibrate():
    assert (
        train(RunConfig(**TINY, model="vit_micro"))["measures"]["recalibrated_test_accuracy"]
        is None
    )
    accuracy = train(RunConfig(**TINY))["measures"]["recalibrated_test_accuracy"]
    assert 0 <= accuracy <= 100


# --- warm-up and clipping ------------------------------------------------------------------------


def rates(**changes):
    """Learning rate of every epoch."""
    found = []
    config = RunConfig(**TINY | {"epochs": 6, "lr": 0.1} | changes)
    train(config, on_epoch=lambda run: found.append(run.optimizer.param_groups[0]["lr"]))
    return found  # as the next epoch will use them


def test_the_rate_rises_linearly_and_falls_as_a_cosine():
    def cosine(step, of):
        return 0.1 * (1 + math.cos(math.pi * step / of)) / 2

    assert rates() == pytest.approx([cosine(e, 6) for e in range(1, 7)], abs=1e-12)
    warm = [0.1 * 2 / 3, 0.1, 0.1, cosine(1, 3), cosine(2, 3), 0]
    assert rates(warmup_epochs=3) == pytest.approx(warm, abs=1e-12)
    whole = rates(warmup_epochs=6)
    assert whole[:5] == pytest.approx([0.1 * e / 6 for e in range(2, 7)])


def test_the_descent_gradient_is_clipped_over_all_parameters():
    x, y = torch.randn(16, 1, 8, 8), torch.randint(10, (16,))
    norms = {}
    for clip in (0.0, 0.01, 1e6):
        model = build_model(RunConfig())
        optimizer = build_optimizer(RunConfig(clip_norm=clip), model)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        norms[clip] = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    assert norms[0.01] == pytest.approx(0.01, rel=1e-4)
    assert norms[0.0] == norms[1e6] > 0.1


def test_a_resumed_warm_up_goes_on_where_it_was(tmp_path):
    config = RunConfig(**TINY | {"epochs": 5}, warmup_epochs=3, clip_norm=0.5)
    whole = train(config)["curves"]

    def stop(run):
        if run.epoch == 2:
            raise InterruptedError

    path = tmp_path / "c.pt"
    with pytest.raises(InterruptedError):
        train(config, checkpoints=path, checkpoint_seconds=0, on_epoch=stop)
    assert train(config, checkpoints=path, checkpoint_seconds=0)["curves"] == whole
