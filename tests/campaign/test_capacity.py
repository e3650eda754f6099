"""What cannot have room is refused before it starts, with the numbers."""

from collections import namedtuple

import pytest
from conftest import one_line

from samlib import models
from samlib.campaign import capacity, runner
from samlib.campaign.jobs import MeasureJob, RunJob
from samlib.errors import ConfigError
from samlib.records.results_folder import ResultsFolder
from samlib.trainer.config import RunConfig

CIFAR = RunConfig(dataset="cifar100", model="resnet8")
WEIGHTS = 4 * models.count(models.build("resnet8", num_classes=100).parameters())
IMAGES = 60_000 * 3 * 32 * 32
Usage, Memory = namedtuple("Usage", "free"), namedtuple("Memory", "available")


def jobs(count):
    return [RunJob(CIFAR.replace(seed=seed)) for seed in range(count)]


def test_disk_is_for_weights_and_for_checkpoints_under_way():
    assert capacity.disk_needed(jobs(5), workers=2) == (5 + 2 * 2 * 2) * WEIGHTS
    assert capacity.disk_needed(jobs(1), workers=2) == (1 + 2 * 2) * WEIGHTS
    assert capacity.disk_needed([MeasureJob(CIFAR, "sharpness")], workers=2) == 0


def test_the_disk_is_the_one_of_the_weights(tmp_path, monkeypatch):
    asked = []
    large = tmp_path / "large"
    large.mkdir()
    folder = ResultsFolder(tmp_path / "quick")
    folder.path.mkdir()
    (folder.path / "weights").symlink_to(large)
    monkeypatch.setattr(
        capacity.shutil, "disk_usage", lambda place: asked.append(place) or Usage(1e12)
    )
    capacity.check(jobs(1), folder, 1, "cpu")
    assert [place.resolve() for place in asked] == [large]


def test_memory_is_for_programs_images_and_states():
    splits = (10_000 + 2 * 50_000) * 3 * 32 * 32  # of which those trained on come augmented, too
    leader, one = 300e6 + IMAGES, 300e6 + IMAGES + splits + 4 * WEIGHTS
    assert capacity.memory_needed(jobs(5), workers=2) == leader + 2 * one
    assert capacity.memory_needed(jobs(1), workers=2) == leader + one
    fewer = [RunJob(CIFAR.replace(train_size=10_000))]
    saved = 2 * 40_000 * 3 * 32 * 32
    assert capacity.memory_needed(fewer, workers=2) == leader + one - saved
    assert capacity.memory_needed([], workers=2) == 0


@pytest.mark.parametrize(
    ("disk", "memory", "said"),
    [
        (
            12 * WEIGHTS,
            1e12,
            r"5 jobs need about [1-9]\S+ MB of disk and .* has [1-9]\S+ MB free: free",
        ),
        (
            1e12,
            900e6,
            "need about 2.1 GB of memory and 0.9 GB are available: take .*--workers .*WORKERS=",
        ),
    ],
)
def test_too_little_of_either_is_said_before_anything_starts(
    tmp_path, monkeypatch, disk, memory, said
):
    monkeypatch.setattr(capacity.shutil, "disk_usage", lambda place: Usage(disk))
    monkeypatch.setattr(capacity.psutil, "virtual_memory", lambda: Memory(memory))
    folder = ResultsFolder(tmp_path / "new" / "quick")
    with pytest.raises(ConfigError, match=said) as caught:
        runner.start_executor("local", folder, 2, "cpu", None, jobs(5))
    one_line(caught)
    assert not folder.path.exists()


def test_just_enough_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(capacity.shutil, "disk_usage", lambda place: Usage(13 * WEIGHTS))
    needed = capacity.memory_needed(jobs(5), 2)
    monkeypatch.setattr(capacity.psutil, "virtual_memory", lambda: Memory(needed))
    capacity.check(jobs(5), ResultsFolder(tmp_path), 2, "cpu")
