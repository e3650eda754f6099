"""How long a training epoch takes, ours against the loop a peer would write; and what it spends.

Both train the base optimizer on the same random images, as `timing.interleaved` has it; ours once
more is the control. Beside them, in the same rounds: augmentation alone, steps alone, and products
of large square matrices, whose rate is the device's limit.

On a CPU the worker processes of the plain loop augment on other cores, so that with one thread it
has three cores where ours has one: this favours the peer.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from samlib import models
from samlib.bench.limits import matrix_rate, operations, products
from samlib.bench.plain_loop import AUGMENTATIONS, plain_loop
from samlib.bench.timing import (
    Step,
    as_in_training,
    at_least_one,
    closure_of,
    interleaved,
    made_by,
    network,
    over,
    quartiles,
    random_run,
)
from samlib.data.augment import augment
from samlib.data.splits import Splits
from samlib.errors import choose
from samlib.sam.restore import full_precision
from samlib.trainer import cuda_graphs
from samlib.trainer.config import PRECISIONS, RunConfig
from samlib.trainer.one_run import usable_device

# The reference first, its twin second. The plain loop computes as PyTorch comes, which on a GPU is
# with convolutions in TF32; there it takes part without, too.
CONTENDERS = ("ours", "ours again", "plain loop")
WITHOUT_TF32 = "plain loop without TF32"


@dataclass(frozen=True)
class Training:
    """What is trained: a model of the zoo on 32 x 32 colour images of 100 classes, with SGD.

    Attributes:
        model: of the zoo.
        batch_size: images per step.
        images: per epoch; None is 1,024 on a CPU and 50,000 on a GPU.
        precision: of ours; None is fp32 on a CPU and bf16 on a GPU. A peer's loop is in fp32.
        rounds: how often everything is timed.
        device, threads: where; threads on the CPU.
    """

    model: str = "resnet56"
    batch_size: int = 128
    images: int | None = None
    precision: str | None = None
    rounds: int = 5
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self):
        choose("model", self.model, models.names())
        if self.precision is not None:
            choose("precision", self.precision, PRECISIONS)
        at_least_one(self, "batch_size", "images", "rounds", "threads")

    @property
    def count(self) -> int:
        """Images per epoch."""
        return self.images or (50_000 if self._gpu else 1024)

    def trained(self, augmentation: str) -> RunConfig:
        """The run whose epochs are timed; small steps keep the weights of a long bench finite."""
        return RunConfig(
            dataset="cifar100",
            model=self.model,
            batch_size=self.batch_size,
            augment=augmentation,
            precision=self.precision or ("bf16" if self._gpu else "fp32"),
            epochs=200,
            lr=1e-3,
        )

    @property
    def _gpu(self) -> bool:
        return self.device.startswith("cuda")


@dataclass(frozen=True)
class Setting(Training):
    """What is timed: `Training`, and how its images are augmented.

    Attributes:
        augment: none, basic or autoaugment.
    """

    augment: str = "autoaugment"

    def __post_init__(self):
        super().__post_init__()
        choose("augmentation", self.augment, AUGMENTATIONS)

    @property
    def config(self) -> RunConfig:
        """The run whose epochs are timed."""
        return self.trained(self.augment)


def contenders(config: RunConfig, device: torch.device, images: int) -> dict[str, Step]:
    """What trains an epoch, by the names in `CONTENDERS`; on a GPU also `WITHOUT_TF32`."""
    ours = [random_run(config, device, images) for _ in range(2)]
    peer = plain_loop(config, ours[0].splits, device)
    calls = (ours[0].train_epoch, ours[1].train_epoch, peer)
    found: dict[str, Step] = dict(zip(CONTENDERS, calls, strict=True))
    if device.type == "cuda":
        found[WITHOUT_TF32] = full_precision()(plain_loop(config, ours[0].splits, device))
    return found


class _SameBatch(Splits):
    """Splits that give their first images as every batch: no augmentation, nothing is gathered."""

    def train_batches(self, augmentation, size, order, draws) -> Iterator[tuple[Tensor, Tensor]]:
        count = self.count("train")
        for begun in range(0, count, size):
            last = min(size, count - begun)
            yield self.train_images[:last], self.train_labels[:last]


def pieces(config: RunConfig, device: torch.device, images: int) -> dict[str, Step]:
    """What an epoch is made of, each alone: `augmentation` of its images, and its `steps`."""
    run = random_run(config, device, images)
    run.splits = _SameBatch(**vars(run.splits))
    return {
        "augmentation": lambda: augment(run.splits.train_images, config.augment, run.draws),
        "steps": run.train_epoch,
    }


def summary(
    took: dict[str, list[float]], images: int, batch_size: int, operations: int, rate: float
) -> dict:
    """What a record says of measured times.

    Args:
        took: seconds round by round, of `contenders` and of `pieces`.
        images: per epoch.
        batch_size: images per step.
        operations: floating-point operations of a step.
        rate: of matrix products, operations per second.
    """
    ours, steps = took["ours"], images / batch_size
    alone = zip(ours, took["augmentation"], took["steps"], strict=True)
    parts = {
        "augmentation": took["augmentation"],
        "steps": took["steps"],
        "rest": [whole - a - b for whole, a, b in alone],
    }
    whole = [name for name in (*CONTENDERS, WITHOUT_TF32) if name in took]
    return {
        "ratios": {name: over(took[name], ours) for name in whole},
        "seconds": {name: quartiles(took[name]) for name in whole},
        "images_per_second": {name: images / statistics.median(took[name]) for name in whole},
        "parts": {name: quartiles(values) for name, values in parts.items()},
        "utilisation": quartiles([operations * steps / (s * rate) for s in ours]),
    }


def measure(setting: Setting) -> dict:
    """Time every contender, every piece and the products, and return a record.

    It holds medians and quartiles: `ratios` of an epoch's time to ours, `seconds` of an epoch,
    `parts` of ours in seconds, of which `rest` is what the others leave, shuffling and gathering
    batches (on a GPU it can be negative: parts that wait for each other alone overlap in an
    epoch); `utilisation`, the share of the matrix rate that an epoch of ours reaches. And
    `images_per_second`, `operations` of a step, `matrix_rate` in operations per second at the
    `size` of matrices that is fastest.

    Raises:
        ConfigError: the device is not there.
    """
    device, config, images = usable_device(setting.device), setting.config, setting.count
    with as_in_training(setting.threads, device):
        closure = closure_of(random_run(config, device, config.batch_size))
        counted = operations(lambda: closure().backward())
        epochs = contenders(config, device, images) | pieces(config, device, images)
        by_size = products(config.precision, device)
        limits = {f"products of {n}": call for n, call in by_size.items()}
        took = interleaved(epochs | limits, setting.rounds, device)
    size, rate = matrix_rate({n: took[f"products of {n}"] for n in by_size})
    return {
        "run_id": name(config, device),
        "setting": vars(setting),
        "network": network(config) | {"augment": config.augment},
        "images": images,
        "operations": counted,
        "matrix_rate": {"size": size, "operations_per_second": rate},
        **summary(took, images, config.batch_size, counted, rate),
        "provenance": made_by(device, cuda_graphs.status(images // config.batch_size, device)),
    }


def name_of(kind: str, config: RunConfig, device: torch.device, *more: str) -> str:
    """The name of a kind's record: a file per network, precision and kind of device."""
    size = f"{network(config)['image_size']}px-batch{config.batch_size}"
    return "-".join([kind, config.model, size, *more, config.precision, device.type])


def name(config: RunConfig, device: torch.device) -> str:
    """Of the record: a file per network, augmentation, precision and kind of device."""
    return name_of("epoch", config, device, config.augment)


def table(record: dict) -> str:
    """A record as text: a line per contender and per part, and how busy the device is."""
    rounds, images = record["setting"]["rounds"], record["images"]
    lines = [f"{record['run_id']}, {images} images, {rounds} rounds, ratio to ours:"]
    for name, (low, median, high) in record["ratios"].items():
        took = f"{record['seconds'][name][1]:9.3f} s"
        speed = f"{record['images_per_second'][name]:9.0f} images/s"
        lines.append(f"  {name:24} {median:5.2f}  [{low:.2f}, {high:.2f}] {took} {speed}")
    whole = record["seconds"]["ours"][1]
    for name, (_, median, _) in record["parts"].items():
        lines.append(f"  {name:24} {median:9.3f} s {100 * median / whole:6.1f} % of ours")
    low, median, high = (100 * share for share in record["utilisation"])
    limit = record["matrix_rate"]
    lines.append(
        f"  {median:.1f} % [{low:.1f}, {high:.1f}] of the rate of matrix products, "
        f"{limit['operations_per_second'] / 1e9:.1f} Gflop/s in {record['network']['precision']} "
        f"at {limit['size']} x {limit['size']}; {record['operations'] / 1e9:.1f} Gflop a step"
    )
    return "\n".join(lines)
