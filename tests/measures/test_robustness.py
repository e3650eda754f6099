"""Corruptions and attacks, against cases made by hand."""

import json

import pytest
import torch
from conftest import one_line, snapshot
from torch import Tensor

from samlib.errors import ConfigError
from samlib.measures import corruptions, robustness
from samlib.measures.attacks import attacked
from samlib.measures.corruptions import corrupt
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import restored, train

# --- corruptions ---------------------------------------------------------------------------------


def images(n=4, side=8, channels=1, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, channels, side, side), dtype=torch.uint8, generator=draw)


def draw(seed=5):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(1, 8), (3, 32)])
@pytest.mark.parametrize("name", corruptions.names())
def test_they_repeat_and_grow_with_severity(name, shape):
    x = images(20, shape[1], shape[0])
    kept = x.clone()
    change = []
    for severity in corruptions.SEVERITIES:
        found = corrupt(x, name, severity, draw())
        assert torch.equal(found, corrupt(x, name, severity, draw()))
        assert found.shape == x.shape
        assert found.dtype == torch.uint8
        change.append((found.float() - x.float()).square().mean().item())
    assert change == sorted(change)
    assert 0 < change[0] < change[-1]
    assert torch.equal(x, kept)


def test_brightness_and_contrast_by_hand():
    x = torch.tensor([[[[0, 100], [200, 250]]]], dtype=torch.uint8)  # mean 137.5
    brighter = corrupt(x, "brightness", 3, draw())  # + 0.2 * 255 = 51
    assert brighter.flatten().tolist() == [51, 151, 251, 255]
    flat = corrupt(x, "contrast", 2, draw())  # 137.5 + 0.6 (x - 137.5)
    assert flat.flatten().tolist() == [55, 115, 175, 205]


def test_noise_is_as_strong_as_it_says():
    grey = torch.full((50, 3, 32, 32), 128, dtype=torch.uint8)
    deviation = (corrupt(grey, "gaussian_noise", 2, draw()).float() - 128).std() / 255
    assert deviation == pytest.approx(0.1, rel=0.02)
    counts = corrupt(grey, "shot_noise", 2, draw()).float() / 255 * 50
    assert counts.var() == pytest.approx(128 / 255 * 50, rel=0.05)  # Poisson: variance = mean
    hit = corrupt(grey, "impulse_noise", 3, draw()) != 128
    assert hit.float().mean() == pytest.approx(0.1, rel=0.05)


def test_blur_keeps_what_is_constant_and_spreads_a_point():
    grey = torch.full((1, 1, 8, 8), 77, dtype=torch.uint8)
    assert torch.equal(corrupt(grey, "gaussian_blur", 5, draw()), grey)
    point = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    point[0, 0, 4, 4] = 255
    blurred = corrupt(point, "gaussian_blur", 3, draw())[0, 0].float()
    assert blurred[4, 4] < 255
    assert blurred[4, 3] == blurred[4, 5] == blurred[3, 4] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fog", 1), "unknown corruption 'fog'; valid: gaussian_noise"),
        (("contrast", 6), "severity must be 1 to 5, not 6"),
        (("contrast", True), "severity must be 1 to 5"),
    ],
)
def test_bad_corruptions(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        corrupt(images(), *arguments, draw())
    one_line(caught)
    with pytest.raises(ConfigError, match="must be uint8"):
        corrupt(images().float(), "contrast", 1, draw())


# --- attacks -------------------------------------------------------------------------------------

W = torch.tensor([[3.0, -4.0, 0.5], [-3.0, 4.0, -0.5]])  # difference of logits: 2 (3, -4, 0.5) x


def linear(x: Tensor) -> Tensor:
    """Two classes, decided by 3 x_0 - 4 x_1 + 0.5 x_2 > 0."""
    return x.flatten(1) @ W.T


POINTS = torch.tensor([[0.5, 0.3, 0.4], [0.6, 0.4, 0.2], [0.4, 0.5, 0.5]]).view(3, 1, 1, 3)
LABELS = torch.tensor([0, 0, 1])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_on_a_linear_network_the_attack_finds_the_distance_to_the_boundary(norm):
    v = W[0]
    margin = (POINTS.flatten(1) @ v).abs() / (v.norm() if norm == "l2" else v.abs().sum())
    for point, label, distance in zip(POINTS, LABELS, margin.tolist(), strict=True):
        for factor, right in ((0.97, True), (1.03, False)):
            moved = attacked(
                linear, point[None], label[None], norm=norm, radius=factor * distance, classes=2
            )
            assert (linear(moved).argmax(1) == label).item() is right


@pytest.mark.parametrize(("norm", "p"), [("l2", 2), ("linf", float("inf"))])
def test_the_attack_stays_in_the_ball_and_among_the_pixels(norm, p):
    for radius in (0.1, 0.7):
        moved = attacked(linear, POINTS, LABELS, norm=norm, radius=radius, classes=2)
        step = (moved - POINTS).flatten(1).norm(p, dim=1)
        assert (step <= radius * (1 + 1e-5)).all()
        assert (step > 0.3 * radius).all()
        assert moved.min() >= 0
        assert moved.max() <= 1
    assert torch.equal(attacked(linear, POINTS, LABELS, norm=norm, radius=0, classes=2), POINTS)


def test_the_attack_does_not_depend_on_the_batch():
    one, all_ = (
        attacked(linear, POINTS, LABELS, norm="l2", radius=0.1, classes=2, batch_size=size)
        for size in (1, 3)
    )
    torch.testing.assert_close(one, all_)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "l1"}, "unknown norm 'l1'; valid: l2, linf"),
        ({"radius": -0.1}, "radius must be finite and >= 0"),
        ({"radius": float("nan")}, "radius must be finite and >= 0"),
        ({"step": 0.0}, "step must be finite and > 0, not 0.0"),
        ({"step": float("inf")}, "step must be finite and > 0"),
    ],
)
def test_bad_attacks(change, message):
    arguments = {"norm": "l2", "radius": 0.1, "classes": 2} | change
    with pytest.raises(ConfigError, match=message) as caught:
        attacked(linear, POINTS, LABELS, **arguments)
    one_line(caught)


# --- a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    config = RunConfig(train_size=400, validation_size=40, epochs=4, batch_size=32)
    states = []
    record = train(config, on_epoch=lambda run: states.append(run.model.state_dict()))
    with restored(config, states[-1]) as run:
        before = snapshot(run.model)
        yield record, robustness.robustness(run), run, before


def test_it_measures_the_run_it_is_given(trained):
    record, found, run, before = trained
    assert found["clean"] == record["test_accuracy"]
    values = [v for levels in found["corruptions"].values() for v in levels]
    assert found["corrupted"] == pytest.approx(sum(values) / len(values))
    assert found["corrupted"] < found["clean"]
    json.dumps(found, allow_nan=False)
    assert snapshot(run.model)[0].keys() == before[0].keys()
    assert all(torch.equal(v, before[0][k]) for k, v in run.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in run.model.parameters())


def test_a_larger_radius_costs_more(trained):
    found = trained[1]
    for norm in ("l2", "linf"):
        attacks = [a for a in found["attacks"] if a["norm"] == norm]
        by_radius = [a["accuracy"] for a in sorted(attacks, key=lambda a: a["radius"])]
        assert by_radius == sorted(by_radius, reverse=True)
        assert by_radius[-1] < found["attacked_clean"] - 20


def test_the_attacks_of_the_duality_paper_are_among_them():
    theirs = {("linf", 1, 0.25), ("linf", 2, 0.5), ("l2", 16, 2), ("l2", 32, 4)}  # in 255ths
    found = {(a.norm, a.radius * 255, a.step * 255) for a in robustness.ATTACKS}
    assert theirs <= found
    assert len(found) == 10


def test_the_noise_is_the_same_for_every_method(trained):
    _, found, run, _ = trained
    test = run.splits.test_images, run.splits.test_labels
    again = robustness._corrupted(run, "impulse_noise", *test)
    assert again == found["corruptions"]["impulse_noise"]
