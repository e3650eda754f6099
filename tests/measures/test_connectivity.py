"""Norm layers exchanged, and paths along single layers, on networks small enough to do by hand."""

import copy
import json
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from conftest import identical, small_net, snapshot
from torch import nn

from samlib import masks
from samlib.measures import connectivity
from samlib.measures.connectivity import barrier, paths
from samlib.models import build
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import restored, train


def linear(*widths, seed=0):
    """A network of linear layers and nothing else, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pairs = pairwise(widths)
        return nn.Sequential(*(nn.Linear(a, b) for a, b in pairs)).double()


def batch(inputs, n=12):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(n, inputs, generator=draw, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=draw)


def between(own, twin, x, y):
    """`paths` between two networks; the first is left as it was."""
    model = copy.deepcopy(own)
    return paths(
        model, own.state_dict(), twin.state_dict(), lambda: F.cross_entropy(model(x), y).item()
    )


def test_the_ends_are_the_losses_of_both_networks():
    own, twin = linear(4, 3, seed=0), linear(4, 3, seed=1)
    x, y = batch(4)
    losses = [F.cross_entropy(net(x), y).item() for net in (own, twin)]
    found = between(own, twin, x, y)
    (only,) = found["layers"]
    for path in (found["whole"], only["own"], only["twin"]):  # of one layer nothing is left
        assert [path[0], path[2]] == losses
        middle = F.linear(x, (own[0].weight + twin[0].weight) / 2, (own[0].bias + twin[0].bias) / 2)
        assert path[1] == pytest.approx(F.cross_entropy(middle, y).item(), rel=1e-12)


def test_only_the_layer_moves():
    own, twin = linear(4, 5, 3, seed=0), linear(4, 5, 3, seed=1)
    x, y = batch(4)
    first, second = between(own, twin, x, y)["layers"]
    assert (first["layer"], second["layer"]) == ("0", "1")
    assert first["own"][0] == second["own"][0] == F.cross_entropy(own(x), y).item()
    assert first["twin"][2] == second["twin"][2] == F.cross_entropy(twin(x), y).item()
    # own's first layer and twin's second, from either side
    mixed = F.cross_entropy(twin[1](own[0](x)), y).item()
    assert second["own"][2] == first["twin"][0] == pytest.approx(mixed, rel=1e-12)
    half = F.linear(own[0](x), *((a + b) / 2 for a, b in zip(*parameters(own, twin), strict=True)))
    assert second["own"][1] == pytest.approx(F.cross_entropy(half, y).item(), rel=1e-12)


def parameters(*nets):
    return [list(net[1].parameters()) for net in nets]


def test_linear_networks_are_convex_along_every_layer_and_not_along_all():
    own = linear(4, 6, 6, 3, seed=2)
    twin = copy.deepcopy(own)
    with torch.no_grad():  # the same function by other weights
        twin[0].weight.neg_(), twin[0].bias.neg_(), twin[1].weight.neg_()
    x, y = batch(4)
    for other in (twin, linear(4, 6, 6, 3, seed=3)):
        for layer in between(own, other, x, y)["layers"]:
            assert barrier(layer["own"]) < 1e-12
            assert barrier(layer["twin"]) < 1e-12
    found = between(own, twin, x, y)
    assert min(barrier(layer["own"]) for layer in found["layers"]) < -1e-3, "the layers differ"
    assert found["whole"][0] == pytest.approx(found["whole"][2], rel=1e-12)
    assert barrier(found["whole"]) > 1e-3


def test_a_loss_that_is_not_finite_has_no_barrier():
    losses = iter((1.0, float("inf"), *(2.0,) * 5))
    own, twin = linear(2, 3, seed=0), linear(2, 3, seed=1)
    found = paths(own, own.state_dict(), twin.state_dict(), lambda: next(losses))
    assert found["layers"][0]["twin"][2] is None
    assert math.isnan(barrier(found["whole"]))
    assert barrier([1.0, 4.0, 2.0]) == 2.5


def test_every_parameter_is_in_one_layer():
    vit = build("vit_micro", num_classes=10, in_channels=1, image_size=8)
    for model in (vit, small_net()):
        found = connectivity.layers(model)
        names = [name for of in found.values() for name in of]
        assert names == [name for name, _ in model.named_parameters()]
    assert connectivity.layers(vit)["pos_embed"] == ["pos_embed"]
    assert connectivity.layers(small_net())["norm1"] == ["norm1.weight", "norm1.bias"]


def test_what_is_exchanged_is_gamma_and_beta_of_every_norm_layer():
    own, twin = small_net(seed=1), small_net(seed=2)
    states = own.state_dict(), twin.state_dict()
    norm = {e.name for e in masks.only_norm(own).entries}
    found = dict(connectivity.swaps(own, *states))
    assert [*found] == ["own", "twin", "own_with_twin_norms", "twin_with_own_norms"]
    for name, (mine, other) in (
        ("own_with_twin_norms", states),
        ("twin_with_own_norms", states[::-1]),
    ):
        for key, value in found[name].items():
            assert torch.equal(value, (other if key in norm else mine)[key])
    assert norm == {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"}


# --- a run and its twin ---

BASE = RunConfig(train_size=80, validation_size=20, epochs=2, batch_size=32)
SAM = BASE.replace(geometry="l2", rho=0.5)


@pytest.fixture(scope="module")
def pair():
    states = {}
    for config in (BASE, SAM):
        train(config, on_epoch=lambda run, c=config: states.update({c: run.model.state_dict()}))
    with restored(SAM, states[SAM]) as run:
        before = snapshot(run.model)
        found = connectivity.connectivity(run, states[BASE])
        assert identical(snapshot(run.model), before)
        yield run, states[BASE], found


def test_accuracies_are_with_statistics_of_the_mixed_weights(pair):
    run, twin, found = pair
    accuracy = found["accuracy"]
    assert accuracy["own"] == run.recalibrated_accuracy()
    norm = {e.name: twin[e.name] for e in masks.only_norm(run.model).entries}
    before = copy.deepcopy(run.model.state_dict())
    run.model.load_state_dict(before | norm)
    assert accuracy["own_with_twin_norms"] == run.recalibrated_accuracy()
    run.model.load_state_dict(before)
    with restored(BASE, twin) as other:
        assert accuracy["twin"] == other.recalibrated_accuracy()
    assert len(json.dumps(found, allow_nan=False)) < 5000


def test_losses_are_in_evaluation_mode_with_statistics_of_their_own_weights(pair):
    run, _, found = pair
    model = copy.deepcopy(run.model).double()
    x, y = run.inputs(run.splits.train_images).double(), run.splits.train_labels
    model.train()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.reset_running_stats(), setattr(m, "momentum", None)
    with torch.no_grad():
        for part in x.split(32):
            model(part)
        model.eval()
        expected = F.cross_entropy(model(x), y).item()
    assert found["images"] == 80
    assert {layer["own"][0] for layer in found["layers"]} == {found["layers"][0]["own"][0]}
    assert found["layers"][0]["own"][0] == pytest.approx(expected, rel=1e-4)


def test_the_statistics_that_came_with_the_weights_are_not_used(pair):
    run, twin, found = pair
    other = {k: v + 3 if "running" in k else v for k, v in twin.items()}
    assert connectivity.connectivity(run, other) == found
