"""The sharpness chapter's measurements, against the measures they are made of."""

import json
import math

import pytest
import torch

from samlib import masks
from samlib.data.splits import make_splits
from samlib.measures import sharpness
from samlib.measures.m_sharpness import m_sharpness
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import restored, train

CONFIG = RunConfig(train_size=150, validation_size=40, epochs=1, batch_size=32)


@pytest.fixture(scope="module")
def found():
    few = (sharpness.Setting(1, 0.03), sharpness.Setting(2, 0.01, mask="only_norm", p=2))
    patch = pytest.MonkeyPatch()
    patch.setattr(sharpness, "SETTINGS", few)
    states = []
    train(CONFIG, on_epoch=lambda run: states.append(run.model.state_dict()))
    with restored(CONFIG, states[0]) as run:
        x, y = run.inputs(run.splits.train_images[:128]), run.splits.train_labels[:128]
        expected = [
            m_sharpness(run.model, x, y, mask, rho=rho, steps=steps, p=p, batch_size=128)
            for mask, rho, steps, p in (
                (masks.all_parameters(run.model), 0.03, 1, math.inf),
                (masks.only_norm(run.model), 0.01, 2, 2),
            )
        ]
        yield sharpness.sharpness(run), expected
    patch.undo()


def test_it_is_m_sharpness_at_every_setting_on_whole_batches(found):
    measured, expected = found
    assert (measured["m"], measured["images"]) == (128, 128)
    assert [s["value"] for s in measured["settings"]] == expected
    assert measured["settings"][0]["p"] == "inf"
    json.dumps(measured, allow_nan=False)


def test_true_labels_are_those_before_the_noise():
    noisy, few = CONFIG.replace(label_noise=0.5), (sharpness.Setting(1, 0.03),)
    patch, states = pytest.MonkeyPatch(), []
    train(noisy, on_epoch=lambda run: states.append(run.model.state_dict()))
    with patch.context() as p, restored(noisy, states[0]) as run:
        p.setattr(sharpness, "SETTINGS", few)
        p.setattr(sharpness, "TRUE_LABELS", few[0]._replace(true_labels=True))
        found = sharpness.sharpness(run)["settings"]
        x, trained_on = run.inputs(run.splits.train_images[:128]), run.splits.train_labels[:128]
        clean = make_splits("digits", seed=0, validation_size=40, train_size=150)
        assert torch.equal(clean.train_images, run.splits.train_images)
        true, mask = clean.train_labels[:128], masks.all_parameters(run.model)
        assert (true != trained_on).any()
        by_labels = [
            m_sharpness(run.model, x, y, mask, rho=0.03, steps=1, batch_size=128)
            for y in (trained_on, true)
        ]
    assert [s["value"] for s in found] == by_labels
    assert ["true_labels" in s for s in found] == [False, True]


def test_the_eigenvalue_is_a_number(found):
    assert math.isfinite(found[0]["eigenvalue"])


def test_the_posters_settings_are_among_them():
    poster = [(s.steps, s.rho) for s in sharpness.POSTER]
    assert poster == [(20, 0.003), (20, 0.007), (1, 0.01), (1, 0.03)]
    assert all(s.adaptive and s.p == math.inf and s.mask == "all" for s in sharpness.POSTER)
