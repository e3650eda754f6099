"""Gradual self-training: what turns, whose labels are used, and what is left as it was."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import identical, one_line, snapshot
from torch import nn

from samlib.errors import ConfigError
from samlib.measures import self_training as module
from samlib.measures.self_training import ANGLES, labelled, self_training, turned
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import restored, train

CONFIG = RunConfig(
    train_size=500, validation_size=200, epochs=4, batch_size=32, geometry="l2", rho=0.1
)


@pytest.fixture(scope="module")
def trained():
    states = []
    record = train(CONFIG, on_epoch=lambda run: states.append(run.model.state_dict()))
    with restored(CONFIG, states[-1]) as run:
        before = snapshot(run.model)
        found = self_training(run)
        assert identical(snapshot(run.model), before)
        yield record, run, found


def test_before_is_the_run_as_it_ended(trained):
    record, run, found = trained
    assert found["clean"] == record["test_accuracy"]
    assert found["angles"] == [10, 20, 30, 40, 50, 60]
    images, labels = run.splits.test_images, run.splits.test_labels
    for angle, accuracy in zip(ANGLES, found["before"], strict=True):
        assert accuracy == run.accuracy(turned(images, angle), labels)
    assert found["before"][-1] < found["clean"] - 40
    json.dumps(found, allow_nan=False)


def test_it_follows_the_turn(trained):
    _, _, found = trained
    assert sum(found["after"]) > sum(found["before"]) + 60  # ten points an angle


def test_no_true_label_is_used_and_equal_runs_give_equal_numbers(trained):
    _, run, found = trained
    wrong = dataclasses.replace(run.splits, val_labels=(run.splits.val_labels + 1) % 10)
    true, run.splits = run.splits, wrong
    try:
        assert self_training(run) == found
    finally:
        run.splits = true


def test_nothing_of_it_is_left(trained):
    _, run, _ = trained
    assert not run.model.training
    assert all(p.grad is None and p.requires_grad for p in run.model.parameters())


def test_images_turn_counter_clockwise_about_their_middle():
    images = torch.randint(256, (3, 2, 8, 8), dtype=torch.uint8)
    assert torch.equal(turned(images, 90), torch.rot90(images, 1, (2, 3)))
    assert turned(images, 30).dtype == torch.uint8
    white = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
    assert turned(white, 45)[0, 0, 0, 0] == 0, "corners come from outside"


def test_labels_are_the_networks_own(trained):
    _, run, _ = trained
    images, labels = run.splits.test_images, run.splits.test_labels
    right = (labelled(run, images) == labels).double().mean().item()
    assert 100 * right == pytest.approx(run.accuracy(images, labels))


def test_without_images_to_label_it_is_refused(trained):
    _, run, _ = trained
    nothing = run.splits.val_images[:0], run.splits.val_labels[:0]
    true = run.splits
    run.splits = dataclasses.replace(true, val_images=nothing[0], val_labels=nothing[1])
    try:
        with pytest.raises(ConfigError, match="validation_size") as caught:
            self_training(run)
    finally:
        run.splits = true
    one_line(caught)


def test_the_steps_are_those_of_plain_descent_on_its_own_labels(monkeypatch):
    """Two angles, an epoch of one batch each, beside the same in numpy and float64."""
    monkeypatch.setattr(module, "ANGLES", (90, 180))
    monkeypatch.setattr(module, "EPOCHS", 1)
    config = RunConfig(batch_size=8, lr=2.0, momentum=0.0, weight_decay=0.0, label_smoothing=0.1)
    draw = torch.Generator().manual_seed(3)
    images = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8, generator=draw)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 16, generator=draw, dtype=torch.float64))
    seen = []
    run = SimpleNamespace(
        model=model,
        config=config,
        forward=model,
        inputs=lambda x: x.double() / 255,
        accuracy=lambda *_: seen.append(model[1].weight.detach().numpy().copy()) or 0.0,
        splits=SimpleNamespace(
            test_images=images,
            test_labels=torch.zeros(6, dtype=torch.int64),
            val_images=images,
            count=lambda split: 6,
        ),
    )
    begun = model[1].weight.detach().numpy().copy()
    self_training(run)
    w = begun.copy()
    for angle, ends in zip((1, 2), seen[-2:], strict=True):
        x = np.rot90(images.numpy(), angle, (2, 3)).reshape(6, 16) / 255
        labels = (x @ w.T).argmax(1)
        odds = np.exp(x @ w.T)
        target = 0.9 * np.eye(3)[labels] + 0.1 / 3
        w -= 0.2 * (odds / odds.sum(1, keepdims=True) - target).T @ x / 6
        np.testing.assert_allclose(ends, w, rtol=1e-12)
    assert np.abs(seen[-1] - begun).max() > 1e-3
    np.testing.assert_array_equal(model[1].weight.detach().numpy(), begun)
