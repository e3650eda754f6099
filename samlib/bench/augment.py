"""How long augmentation takes: ours on the device against Pillow, and its share of an epoch.

Pillow augments the same images one by one through torchvision, in one process, already decoded. An
epoch is `Trainer.train_epoch`, in the same rounds. The target on a GPU: a twentieth of it or less.
"""

import statistics
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from samlib.bench.epoch import Training, name_of
from samlib.bench.plain_loop import augmentation, pixels
from samlib.bench.timing import (
    Step,
    as_in_training,
    interleaved,
    made_by,
    network,
    over,
    quartiles,
    random_run,
)
from samlib.data.augment import augment
from samlib.data.splits import Splits
from samlib.trainer import cuda_graphs
from samlib.trainer.one_run import usable_device

TIMED = ("basic", "autoaugment")
TARGET = 0.05  # of an epoch on a GPU


@dataclass(frozen=True)
class Setting(Training):
    """The training whose augmentation is timed: `Training`."""


def contenders(setting: Setting, device: torch.device) -> dict[str, Step]:
    """By augmentation: `<name>`, ours; its control, `<name> again`; `<name> by Pillow`; and
    `epoch with <name>`.
    """
    found: dict[str, Step] = {}
    for name in TIMED:
        run = random_run(setting.trained(name), device, setting.count)
        found[name] = _ours(name, run.splits.train_images)
        found[f"{name} by Pillow"] = _pillow(name, run.splits)
        found[f"epoch with {name}"] = run.train_epoch
        found[f"{name} again"] = _ours(name, run.splits.train_images)
    return found


def _ours(name: str, images: Tensor) -> Step:
    draws = torch.Generator().manual_seed(0)
    return lambda: augment(images, name, draws)


def _pillow(name: str, splits: Splits) -> Step:
    images = [Image.fromarray(image) for image in pixels(splits)]
    transform = augmentation(name, splits.info)
    return lambda: [transform(image) for image in images]


def summary(took: dict[str, list[float]], images: int) -> dict:
    """What a record says of measured times.

    Args:
        took: seconds round by round, of `contenders`.
        images: how many each augments.
    """
    return {
        "ratios": {name: over(took[f"{name} by Pillow"], took[name]) for name in TIMED},
        "controls": {name: over(took[f"{name} again"], took[name]) for name in TIMED},
        "share_of_epoch": {name: over(took[name], took[f"epoch with {name}"]) for name in TIMED},
        "seconds": {name: quartiles(values) for name, values in took.items()},
        "images_per_second": {
            name: images / statistics.median(values) for name, values in took.items()
        },
    }


def measure(setting: Setting) -> dict:
    """Time every contender, and return a record.

    It holds medians and quartiles: `ratios` of Pillow's time to ours, of the `controls`' to
    their twins', the `share_of_epoch` that ours takes beside its `target` on a GPU, `seconds`. And
    `images_per_second`.

    Raises:
        ConfigError: the device is not there.
    """
    device, config = usable_device(setting.device), setting.trained(TIMED[-1])
    steps = setting.count // config.batch_size
    with as_in_training(setting.threads, device):
        took = interleaved(contenders(setting, device), setting.rounds, device)
    return {
        "run_id": name_of("augment", config, device),
        "setting": vars(setting),
        "network": network(config),
        "images": setting.count,
        "target": TARGET,
        **summary(took, setting.count),
        "provenance": made_by(device, cuda_graphs.status(steps, device)),
    }


def table(record: dict) -> str:
    """A record as text: a line per augmentation."""
    rounds, images = record["setting"]["rounds"], record["images"]
    lines = [f"{record['run_id']}, {images} images, {rounds} rounds, ratio to ours:"]

    def line(name: str, ratio: list[float], timed: str) -> str:
        low, median, high = ratio
        speed = record["images_per_second"][timed]
        return f"  {name:24} {median:5.2f}  [{low:.2f}, {high:.2f}] {speed:9.0f} images/s"

    for name in record["ratios"]:
        low, median, high = (100 * share for share in record["share_of_epoch"][name])
        share = f"{median:.1f} % [{low:.1f}, {high:.1f}] of an epoch"
        lines += [
            line(name, [1.0] * 3, name)
            + f", {share} (target on a GPU: {100 * record['target']:.0f} %)",
            line(f"{name} again", record["controls"][name], f"{name} again"),
            line(f"{name} by Pillow", record["ratios"][name], f"{name} by Pillow"),
        ]
    return "\n".join(lines)
