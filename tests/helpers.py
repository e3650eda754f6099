"""What several test files share beside the fixtures of conftest."""

import dataclasses

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from samlib import models
from samlib.__main__ import main
from samlib.data import augment
from samlib.data.info import names
from samlib.sam.family import MEMBERS
from samlib.sam.geometry import GEOMETRIES
from samlib.sam.masks.by_name import MASKS
from samlib.trainer.config import OPTIMIZERS, PRECISIONS, RunConfig


def without_times(record):
    """A record without times and checksum: the part that must repeat bit for bit."""
    return {key: value for key, value in record.items() if key not in ("times", "checksum")}


def run(capsys, *arguments):
    try:
        code = main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


def result(seed=0, **changes):
    """What `train` returns, made up."""
    config = RunConfig(seed=seed, geometry="l2", rho=0.05, epochs=2)
    return {
        "run_id": config.run_id,
        "config": config.to_dict(),
        "status": "completed",
        "diverged_epoch": None,
        "test_accuracy": 81.25,
        "best_test_accuracy": 83.1,
        "validation_accuracy": 80.123456789,
        "curves": {"train_accuracy": [50.0, 75.5], "norm_share": [0.25, None]},
        "mask": {"count": 100, "total": 1000},
        "measures": {"gamma_abs_mean": 0.9, "beta_abs_mean": 0.1},
        "times": {"wall": 2.5, "epochs": [1.0, 1.5]},
        "provenance": {"commit": None, "source": "abc"},
    } | changes


COLOURS = {"n01 red": (200, 30, 30), "n02 green": (30, 200, 30), "n03 blue": (30, 30, 200)}


def write_images(folder, per_class, classes=COLOURS, seed=0):
    """JPEG files of one colour each, with some noise, of different shapes."""
    rng = np.random.default_rng(seed)
    for name, colour in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            shape = (*rng.integers(30, 60, size=2), 3)
            pixels = np.clip(rng.normal(colour, 25, shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.JPEG", quality=90)


PAPER = {
    "resnet56": (855_770, 861_620, 4_256, 57),
    "resnext29_32x4d": (4_775_754, 4_868_004, 25_216, 31),
    "wrn28_10": (36_479_194, 36_536_884, 17_952, 25),
    "vit_t": (5_362_762, 5_380_132, 9_600, 25),
    "vit_s": (21_342_346, 21_376_996, 19_200, 25),
}


def on_meta(name, num_classes=10, **shape):
    """A model without memory for its weights."""
    with torch.device("meta"):
        return models.build(name, num_classes=num_classes, **shape)


OTHER = {
    "dataset": "cifar10",
    "model": "resnet8",
    "seed": 1,
    "geometry": "fisher",
    "mask": "dynamic",
    "rho": 0.5,
    "eta": 0.01,
    "sparsity": 0.5,
    "mask_every": 1,
    "mask_samples": 16,
    "radius_over": "all",
    "batchnorm": "first",
    "start": 1,
    "end": 3,
    "train_size": 100,
    "validation_size": 10,
    "label_noise": 0.2,
    "augment": "shift",
    "epochs": 9,
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 0.01,
    "momentum": 0.8,
    "weight_decay": 0.0,
    "label_smoothing": 0.0,
    "precision": "bf16",
    "eval_every": 2,
    "warmup_epochs": 1,
    "clip_norm": 1.0,
    "updated": "no_norm",
    "decayed": "no_norm",
    "member": "every_k",
}
# Those that go together: momentum is sgd's.
TOGETHER = {field: value for field, value in OTHER.items() if field != "momentum"}


FIELDS = {f.name: f.default for f in dataclasses.fields(RunConfig)}


CHOICES = {
    "dataset": names(),
    "model": models.names(),
    "geometry": ("none", *GEOMETRIES),
    "mask": tuple(MASKS),
    "augment": augment.names(),
    "optimizer": OPTIMIZERS,
    "radius_over": ("mask", "all"),
    "batchnorm": ("both", "first"),
    "precision": PRECISIONS,
    "updated": ("all", "no_norm"),
    "decayed": ("all", "no_norm"),
    "member": tuple(MEMBERS),
}

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 300),
    st.floats(),
    st.floats(0, 1),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.sampled_from([name for names in CHOICES.values() for name in names]),
    st.sampled_from(list(OTHER.values())),
)
