"""What the attack leaves alone, and what of a run it attacks (see test_robustness for the rest)."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import identical, one_line, small_net, snapshot
from torch import nn

from samlib.data.info import INFO
from samlib.errors import ConfigError
from samlib.measures import robustness
from samlib.measures.attacks import attacked


def test_without_art_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "art.attacks.evasion", None)
    x, y = torch.rand(1, 1, 1, 2), torch.tensor([0])
    with pytest.raises(ConfigError, match=r"needs art: pip install .*\[robustness\]'") as caught:
        attacked(lambda x: x.flatten(1), x, y, norm="l2", radius=0.1, classes=2)
    one_line(caught)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_attack_leaves_model_images_and_numpys_randomness_alone(norm):
    net = small_net().eval()
    net.fc.requires_grad_(False)
    x = torch.rand(8, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    kept, before, drawn = x.clone(), snapshot(net), np.random.get_state()
    wanted = [p.requires_grad for p in net.parameters()]
    moved = attacked(net, x, y, norm=norm, radius=0.3, classes=3)
    again = attacked(net, x, y, norm=norm, radius=0.3, classes=3)
    assert not torch.equal(moved, x)
    assert torch.equal(moved, again)
    assert torch.equal(x, kept)
    assert identical(snapshot(net), before)
    assert not net.training
    assert [p.requires_grad for p in net.parameters()] == wanted
    assert all(map(np.array_equal, np.random.get_state(), drawn))


# --- the run that is attacked --------------------------------------------------------------------


class Threshold(nn.Module):
    """Two classes of one-pixel images: is the input above a threshold?"""

    def __init__(self, at):
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at))

    def forward(self, x):
        above = x.flatten(1) - self.at
        return torch.cat([-above, above], 1)


def run_of(pixel, at, sign=1):
    """A run with one image of one pixel; it normalises with mean 0.5 and deviation 0.25."""
    info = dataclasses.replace(INFO["digits"], classes=2, mean=(0.5,), std=(0.25,), image_size=1)
    images = torch.tensor(pixel, dtype=torch.uint8).view(1, 1, 1, 1)
    model = Threshold(at).eval()
    return SimpleNamespace(
        model=model,
        splits=SimpleNamespace(
            info=info, test_images=images, test_labels=torch.tensor([int(sign > 0)])
        ),
        device=torch.device("cpu"),
        forward=lambda x: sign * model(x),
    )


def accuracy(run, norm, radius):
    images, labels = run.splits.test_images, run.splits.test_labels
    attack = robustness.Attack(norm, radius, radius / 4 or 1.0)
    return robustness._attacked(run, images, labels, attack)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_network_is_attacked_in_pixels_and_sees_them_normalised(norm):
    # 204 / 255 = 0.8 is 1.2 to the network; 0.2 is the pixel 0.55, a quarter away.
    run = run_of(204, at=0.2)
    assert accuracy(run, norm, 0.24) == 100
    assert accuracy(run, norm, 0.26) == 0


def test_white_is_one():
    white = (0.998 - 0.5) / 0.25
    assert accuracy(run_of(255, at=white), "linf", 0) == 100
    assert accuracy(run_of(254, at=white), "linf", 0) == 0


def test_what_the_run_computes_is_attacked():
    # `forward` may do more than the model, as it does under autocast; here it turns the sign.
    run = run_of(204, at=0.2, sign=-1)
    assert accuracy(run, "linf", 0.24) == 100
    assert accuracy(run, "linf", 0.26) == 0


def test_the_gradients_of_the_weights_are_left_alone():
    run = run_of(204, at=0.2)
    run.model.at.grad = torch.tensor(7.0)
    accuracy(run, "linf", 0.26)
    assert run.model.at.grad == 7
    assert run.model.at == torch.tensor(0.2)
    assert run.model.at.requires_grad


def test_the_first_images_are_attacked_and_their_clean_accuracy_is_given(monkeypatch):
    monkeypatch.setattr(robustness, "ATTACKED", 3)
    run = run_of(204, at=0.2)
    run.splits.test_images = torch.tensor([204, 204, 0, 0, 0], dtype=torch.uint8).view(5, 1, 1, 1)
    run.splits.test_labels = torch.ones(5, dtype=torch.int64)
    monkeypatch.setattr(robustness, "_corrupted", lambda *arguments: [0.0])
    run.accuracy = lambda images, labels: 100 * (images.flatten() > 100).double().mean().item()
    found = robustness.robustness(run)
    assert found["clean"] == pytest.approx(40)
    assert found["attacked"] == 3
    assert found["attacked_clean"] == pytest.approx(200 / 3)
    attack = {"norm": "l2", "radius": 0.25, "step": 0.0625}
    assert found["attacks"][0] == attack | {"accuracy": pytest.approx(200 / 3)}
    monkeypatch.setattr(robustness, "IN_SHORT", 4)
    monkeypatch.setattr(robustness, "ATTACKED_IN_SHORT", 1)
    short = robustness.robustness_in_short(run)
    assert (short["clean"], short["attacked"], short["attacked_clean"]) == (50, 1, 100)
    assert [(a["norm"], a["radius"] * 255) for a in short["attacks"]] == [
        *(("linf", 1), ("linf", 2)),
        *(("l2", 16), ("l2", 32)),
    ]
    assert {a["accuracy"] for a in short["attacks"]} == {100}


def test_the_step_is_as_long_as_the_attack_says():
    # 0.8 is 0.25 above the boundary: ten steps of 0.02 do not reach it, whatever the radius.
    run = run_of(204, at=0.2)
    images, labels = run.splits.test_images, run.splits.test_labels
    for step, right in ((0.02, 100), (0.03, 0)):
        attack = robustness.Attack("linf", 0.5, step)
        assert robustness._attacked(run, images, labels, attack) == right
