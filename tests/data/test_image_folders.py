"""Data sets in folders: real JPEG files, the same batches whoever loads them, shifted test sets."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from conftest import one_line, repeatable
from helpers import COLOURS, write_images
from PIL import Image
from torchvision.transforms.v2 import RandomResizedCrop

from samlib import masks
from samlib.data import datasets, image_folders
from samlib.data.decode import centred, inception, open_rgb
from samlib.data.image_folders import (
    Files,
    classes_of,
    files_of,
    folder_splits,
)
from samlib.data.info import INFO
from samlib.errors import ConfigError, DataMissing, SamlibError
from samlib.measures.shifted_sets import SETS, positions, shifted_sets
from samlib.models import build
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import restored, train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "imagenet" / "train", 12)
    write_images(folder / "imagenet" / "val", 5, seed=1)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """32 pixels, and images decoded in this process."""
    info = dataclasses.replace(INFO["imagenet"], image_size=32)
    monkeypatch.setitem(INFO, "imagenet", info)
    monkeypatch.setattr(image_folders, "loaders", lambda: 0)


CONFIG = RunConfig(
    dataset="imagenet",
    model="resnet8",
    validation_size=6,
    augment="inception",
    epochs=3,
    warmup_epochs=1,
    batch_size=8,
    clip_norm=1.0,
    lr=0.05,
)


@pytest.mark.parametrize(
    "method",
    [
        {},
        {"geometry": "l2", "rho": 0.5, "mask": "only_norm"},
        {"geometry": "l2", "rho": 0.1, "mask": "fisher", "mask_samples": 8, "sparsity": 0.9},
    ],
)
def test_a_run_learns_colours_and_repeats(root, method):
    first, second = (train(CONFIG.replace(**method), data_dir=root) for _ in range(2))
    assert repeatable(first) == repeatable(second)
    assert first["test_accuracy"] > 60
    assert first["validation_accuracy"] is not None
    assert first["measures"]["recalibrated_test_accuracy"] is not None


def test_loading_processes_share_the_cores_they_may_use(monkeypatch):
    monkeypatch.undo()  # the number that `small` set
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    found = [image_folders.loaders()]
    for count in ("4", "16"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", count)
        found.append(image_folders.loaders())
    assert found == [11, 2, 0]


@pytest.mark.slow
def test_loading_processes_change_nothing(root, monkeypatch):
    alone = train(CONFIG, data_dir=root)
    monkeypatch.setattr(image_folders, "loaders", lambda: 2)
    assert repeatable(train(CONFIG, data_dir=root)) == repeatable(alone)


def test_a_resumed_run_sees_the_images_it_would_have_seen(root, tmp_path):
    def stop(run):
        if run.epoch == 1:
            raise InterruptedError

    kept = {"checkpoints": tmp_path / "c.pt", "checkpoint_seconds": 0}
    with pytest.raises(InterruptedError):
        train(CONFIG, data_dir=root, on_epoch=stop, **kept)
    whole = train(CONFIG, data_dir=root)
    assert repeatable(train(CONFIG, data_dir=root, **kept)) == repeatable(whole)


def test_training_validation_and_test_images_do_not_meet(root):
    split = folder_splits(
        "imagenet", seed=3, validation_size=6, train_size=20, device="cpu", data_dir=root
    )
    parts = [set(getattr(split, name).files) for name in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [20, 6, 15]
    assert not parts[0] & parts[1]
    for files in (split.train, split.validation):
        for path, label in zip(files.files, files.labels, strict=True):
            assert list(COLOURS)[label] == Path(path).parent.name


def test_evaluation_cuts_out_the_centre():
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    image[:, :, 40:56] = 255  # the middle
    cut = centred(image, 28)
    assert cut.shape == (3, 28, 28)
    assert cut[:, :, 12:16].min() > 200
    assert cut[:, :, :5].max() < 50


def test_augmentation_follows_from_the_seed_alone():
    image = (
        torch.arange(64 * 64).reshape(1, 64, 64).remainder(256).to(torch.uint8).expand(3, -1, -1)
    )
    before = torch.get_rng_state()
    one, again, other = (inception(image, 32, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        theirs = RandomResizedCrop(32, antialias=True)(image)
    assert torch.equal(other, theirs) or torch.equal(other, theirs.flip(-1))


def test_an_image_is_augmented_anew_in_every_epoch(root):
    files, labels = files_of(root / "imagenet" / "train", list(COLOURS))
    first, again, later = (Files(files, labels, 32, epoch)[4][0] for epoch in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_grey_and_palette_images_are_read_as_colour(tmp_path):
    Image.new("L", (20, 30), 99).save(tmp_path / "grey.jpg")
    Image.new("P", (20, 30), 3).save(tmp_path / "palette.png")
    assert open_rgb(tmp_path / "grey.jpg").shape == (3, 30, 20)
    assert open_rgb(tmp_path / "palette.png").shape == (3, 30, 20)


# --- what can be wrong ---------------------------------------------------------------------------


def problem(folder, config=CONFIG, kind=SamlibError):
    with pytest.raises(kind) as caught:
        train(config, data_dir=folder)
    return one_line(caught)


def test_missing_folders_are_named(tmp_path):
    assert str(tmp_path / "imagenet" / "train") in problem(tmp_path, kind=DataMissing)
    (tmp_path / "imagenet" / "train" / "empty").mkdir(parents=True)
    assert str(tmp_path / "imagenet" / "val") in problem(tmp_path, kind=DataMissing)
    (tmp_path / "imagenet" / "train" / "empty").rmdir()
    assert "holds no folders" in problem(tmp_path, kind=DataMissing)
    (tmp_path / "imagenet" / "train" / "empty").mkdir()
    write_images(tmp_path / "imagenet" / "val", 1, {"empty": (0, 0, 0)})
    assert "holds no images" in problem(tmp_path, kind=DataMissing)


def test_other_classes_in_the_validation_folder_are_named(tmp_path):
    write_images(tmp_path / "imagenet" / "train", 1)
    write_images(tmp_path / "imagenet" / "val", 1, {"n99 cat": (0, 0, 0)} | COLOURS)
    assert "n99 cat is in one of them only" in problem(tmp_path, kind=ConfigError)


@pytest.mark.parametrize("loaders", [0, 2])
def test_a_broken_image_is_named(tmp_path, monkeypatch, loaders):
    monkeypatch.setattr(image_folders, "loaders", lambda: loaders)
    write_images(tmp_path / "imagenet" / "train", 5)
    write_images(tmp_path / "imagenet" / "val", 2)
    broken = tmp_path / "imagenet" / "val" / "n02 green" / "1.JPEG"
    broken.write_bytes(broken.read_bytes()[:200])
    said = problem(tmp_path, CONFIG.replace(validation_size=3), DataMissing)
    assert said.startswith(f"{broken} cannot be read as an image")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_noise": 0.1}, "takes no label noise"),
        ({"augment": "basic"}, "inception or none"),
        ({"validation_size": 40}, "do not fit"),
        ({"train_size": 40}, "do not fit"),
    ],
)
def test_what_does_not_fit_is_refused(root, change, message):
    assert message in problem(root, CONFIG.replace(**change), ConfigError)


def test_inception_is_refused_for_arrays():
    config = RunConfig(train_size=20, validation_size=5, augment="inception")
    with pytest.raises(ConfigError, match="data sets in folders"):
        train(config)


def test_nobody_downloads_imagenet(tmp_path):
    for reach in (datasets.load, datasets.prepare):
        with pytest.raises(DataMissing, match="is not downloaded: put its images into") as caught:
            reach("imagenet", tmp_path)
        one_line(caught)


# --- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total", "norm", "layers"),
    [("vit_s32", 22_878_952, 19_200, 25), ("resnet50", 25_557_032, 53_120, 53)],
)
def test_counts_of_the_imagenet_models(name, total, norm, layers):
    with torch.device("meta"):
        model = build(name, num_classes=1000, image_size=224)
    mask = masks.only_norm(model)
    assert (mask.total, mask.count) == (total, norm)
    assert len(masks.norm_layers(model)) == layers


def test_resnet50_computes_what_torchvisions_does():
    torch.manual_seed(0)
    model = build("resnet50", num_classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    import torchvision

    plain = torchvision.models.resnet50(num_classes=10).eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
    assert masks.blocks(model, [3, 4]).untouched == 2
    with pytest.raises(ConfigError, match="takes colour images"):
        build("resnet50", num_classes=10, in_channels=1)


# --- shifted test sets ---------------------------------------------------------------------------


@pytest.fixture
def run_and_folder(root, tmp_path):
    (tmp_path / "imagenet").symlink_to(root / "imagenet")
    states = []
    train(CONFIG, data_dir=tmp_path, on_epoch=lambda run: states.append(run.model.state_dict()))
    with restored(CONFIG, states[-1], data_dir=tmp_path) as run:
        yield run, tmp_path


def test_a_set_with_some_classes_is_judged_among_them(run_and_folder):
    run, folder = run_and_folder
    some = {name: COLOURS[name] for name in list(COLOURS)[1:]}
    write_images(folder / "imagenet-r", 4, some, seed=5)
    found = shifted_sets(run)
    assert found["imagenet-r"]["images"] == 8
    assert found["imagenet-r"]["classes"] == 2
    assert found["imagenet"]["accuracy"] == run.accuracy_on("test")
    run.model.fc.bias.data[0] += 1e6  # class 0, which the folder does not have, always wins
    assert shifted_sets(run)["imagenet-r"]["accuracy"] == found["imagenet-r"]["accuracy"]
    assert shifted_sets(run)["imagenet"]["accuracy"] == pytest.approx(100 / 3)


def test_sets_that_cannot_be_used_say_why(run_and_folder):
    run, folder = run_and_folder
    write_images(folder / "objectnet", 1, {"teapot": (1, 2, 3)})
    found = shifted_sets(run)
    assert set(found) == {"imagenet", *SETS}
    assert str(folder / "imagenet-a") in found["imagenet-a"]["missing"]
    assert "teapot" in found["objectnet"]["missing"]
    assert all("\n" not in f["missing"] for f in found.values() if "missing" in f)


def test_folders_of_numbers_are_positions(tmp_path):
    for name in ("0", "2"):
        (tmp_path / name).mkdir()
    assert positions(tmp_path, ["a", "b", "c"]) == {"0": 0, "2": 2}
    assert classes_of(tmp_path) == ["0", "2"]
    with pytest.raises(SamlibError, match="was not trained on, 2"):
        positions(tmp_path, ["0", "b"])
