"""The curvature chapter's measurement, against the Hessian's own, and the index it feeds."""

import json
import math

import pytest
import torch
from conftest import identical, small_batch, small_net, snapshot

from samlib import masks
from samlib.measures import curvature
from samlib.measures.hessian import top_eigenvalues, traces
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import restored, train

CONFIG = RunConfig(train_size=80, validation_size=40, epochs=1, batch_size=32)


@pytest.fixture(scope="module")
def measured():
    states = []
    train(CONFIG, on_epoch=lambda run: states.append(run.model.state_dict()))
    with restored(CONFIG, states[0]) as run:
        before = snapshot(run.model)
        patch = pytest.MonkeyPatch()
        with patch.context() as p:
            p.setattr(curvature, "PROBES", 2)
            p.setattr(curvature, "IMAGES", 64)
            found = curvature.curvature(run)
        assert identical(snapshot(run.model), before)
        yield run, found


def test_it_is_the_trace_of_both_blocks_and_the_top_of_three(measured):
    run, found = measured
    model, y = run.model, run.splits.train_labels[:64]
    x = run.inputs(run.splits.train_images[:64])
    assert (found["images"], found["probes"]) == (64, 2)
    probed = {}
    for name, make in (("only_norm", masks.only_norm), ("no_norm", masks.no_norm)):
        probed[name] = traces(model, x, y, make(model), probes=2).sum(1)
        assert found["trace"][name] == pytest.approx(probed[name].mean())
    both = probed["only_norm"] + probed["no_norm"]
    assert found["trace"]["all"] == pytest.approx(both.mean())
    assert found["trace_error"]["all"] == pytest.approx(abs(both[0] - both[1]) / 2)
    for name, make in (("all", masks.all_parameters), ("only_norm", masks.only_norm)):
        top = top_eigenvalues(model, x, y, make(model), tolerance=1e-2)
        assert found["eigenvalue"][name] == pytest.approx(top[0], rel=1e-3)
    assert found["eigenvalue"]["only_norm"] <= found["eigenvalue"]["all"] * (1 + 1e-3)


def test_the_layers_are_the_weights_outside_the_norm_layers(measured):
    run, found = measured
    weights = dict(run.model.named_parameters())
    assert [layer["layer"] for layer in found["layers"]] == [
        name.removesuffix(".weight") for name, w in weights.items() if w.ndim > 1
    ]
    for layer in found["layers"]:
        w = weights[layer["layer"] + ".weight"]
        assert layer["weight_squared"] == pytest.approx(w.norm().item() ** 2, rel=1e-5)
    together = sum(layer["trace"] for layer in found["layers"])
    assert together == pytest.approx(found["trace"]["no_norm"], rel=0.1)  # biases of fc aside
    assert len(json.dumps(found, allow_nan=False)) < 3000


def test_what_is_not_finite_is_none(measured):
    run, _ = measured
    kept = run.model.fc.bias.detach().clone()
    with torch.no_grad():
        run.model.fc.bias[0] = float("nan")
    found = curvature.curvature(run)
    with torch.no_grad():
        run.model.fc.bias.copy_(kept)
    assert found["trace"] is None
    assert set(found["eigenvalue"].values()) == {None}
    assert found["layers"] == []


def scaled(net, by):
    """The same function: a convolution before a batch norm, and the statistics that follow it."""
    with torch.no_grad():
        net.conv1.weight.mul_(by)
        net.norm1.running_mean.mul_(by)
        net.norm1.running_var.mul_(by**2)
    return net


def test_the_index_stays_when_a_weight_is_scaled_before_a_batch_norm():
    x, y = small_batch(torch.float64)
    layers = []
    for by in (1.0, 3.0):
        net = small_net(torch.float64, seed=4)
        net.norm1.eps = 1e-30
        net(small_batch(torch.float64, seed=9)[0])
        net = scaled(net.eval(), by)
        w = net.conv1.weight
        net.conv2.requires_grad_(False)
        mask = masks.convolutions(net)  # conv1's weight alone
        trace = traces(net, x, y, mask, probes=5).mean()
        layers.append({"weight_squared": w.square().sum().item(), "trace": trace})
    before, after = layers
    assert after["weight_squared"] == pytest.approx(9 * before["weight_squared"])
    assert after["trace"] == pytest.approx(before["trace"] / 9)
    assert curvature.index(after) == pytest.approx(curvature.index(before))
    assert curvature.index({"weight_squared": 4.0, "trace": 9.0}) == 6
    assert math.isnan(curvature.index({"weight_squared": 1.0, "trace": -0.1}))
