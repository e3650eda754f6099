"""Timing on random images: what a run computes in training, without its data set.

Contenders take turns in one process: every round calls each once, in an order drawn anew, so that
a machine whose speed drifts drifts for all.
"""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from samlib.data.info import INFO
from samlib.data.splits import Splits
from samlib.errors import ConfigError
from samlib.models import is_vit
from samlib.provenance import provenance
from samlib.records import store
from samlib.trainer import cuda_graphs
from samlib.trainer.build import build_model
from samlib.trainer.config import RunConfig
from samlib.trainer.loop import Trainer

Step = Callable[[], object]

_FILLED = 0.01  # seconds that calls of one contender fill in a round on a GPU


def random_run(config: RunConfig, device: torch.device, images: int) -> Trainer:
    """A run as `train` begins it, its training set that many random images."""
    info = INFO[config.dataset]
    draw = torch.Generator().manual_seed(1)
    shape = (images, info.channels, info.image_size, info.image_size)
    x = torch.randint(256, shape, generator=draw, dtype=torch.uint8).to(device)
    y = torch.randint(info.classes, (images,), generator=draw).to(device)
    model = build_model(config).to(device)
    if not is_vit(config.model):
        model = model.to(memory_format=torch.channels_last)
    model.train()
    return Trainer(config, model, Splits(x, y, x[:0], y[:0], x[:0], y[:0], info), device)


def closure_of(run: Trainer) -> Callable[[], Tensor]:
    """Forward pass and loss on the whole training set of a random run, as one batch."""
    x, y = run.inputs(run.splits.train_images), run.splits.train_labels
    smoothing = run.config.label_smoothing
    return lambda: F.cross_entropy(run.forward(x), y, label_smoothing=smoothing)


def network(config: RunConfig) -> dict:
    """What the time of a step depends on, classes of the head aside."""
    info = INFO[config.dataset]
    return {
        "model": config.model,
        "image_size": info.image_size,
        "channels": info.channels,
        "batch_size": config.batch_size,
        "optimizer": config.optimizer,
        "precision": config.precision,
    }


def as_trained(call: Step, device: torch.device) -> Step:
    """A step as an epoch of many runs it: on a GPU plain once, then recorded and replayed."""
    return cuda_graphs.replayed(call, cuda_graphs.WORTH, device)


def seconds(call: Step, device: torch.device, times: int = 1) -> float:
    """Wall time of a call, what it put on the device's queue included; the mean of so many."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    begun = time.perf_counter()
    for _ in range(times):
        call()
    wait()
    return (time.perf_counter() - begun) / times


def warmed(call: Step, device: torch.device) -> int:
    """Warm a call up; how often it is called to be timed once.

    On a GPU short calls follow each other, as steps do in an epoch, so that what is timed is not
    the wait for one of them.
    """
    call()
    if device.type == "cpu":
        return 1
    call()  # a step that is replayed is recorded by its second call
    return math.ceil(_FILLED / seconds(call, device))


def interleaved(
    contenders: dict[str, Step], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every contender in every round, after calls that warm it up."""
    for call in contenders.values():
        call()
    times = {name: warmed(call, device) for name, call in contenders.items()}
    took: dict[str, list[float]] = {name: [] for name in contenders}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(contenders), len(contenders)):
            took[name].append(seconds(contenders[name], device, times[name]))
    return took


@contextmanager
def as_in_training(number: int, device: torch.device) -> Iterator[None]:
    """So many CPU threads; on a GPU the fastest convolutions, for every contender alike."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = device.type == "cuda"
    try:
        with threads(number):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def made_by(device: torch.device, replayed: bool | str) -> dict:
    """The provenance of a bench record: whether its steps were replayed graphs, or why not."""
    return provenance(str(device)) | {"replayed": replayed}


@contextmanager
def threads(number: int) -> Iterator[None]:
    """That many CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def quartiles(values: list[float]) -> list[float]:
    """Lower quartile, median and upper quartile.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    [2.0, 3.0, 4.0]
    """
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def over(values: list[float], base: list[float]) -> list[float]:
    """Quartiles of a ratio, round by round."""
    return quartiles([a / b for a, b in zip(values, base, strict=True)])


def at_least_one(setting: object, *names: str) -> None:
    """Refuse numbers of a setting that are below 1; None is what is not given.

    Raises:
        ConfigError: names the first.
    """
    for name in names:
        value = getattr(setting, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1")


def replayed_of(records: Iterable[dict]) -> bool | str:
    """What several records say of whether their steps were replayed, as one."""
    found = {record["provenance"]["replayed"] for record in records}
    return found.pop() if len(found) == 1 else ", ".join(sorted(map(str, found)))


def read(folder: Path, kind: str) -> list[dict]:
    """The records of one kind of bench, such as `step`, in a folder of results."""
    found = store.read(folder / "bench")
    return [record for name, record in found.items() if name.startswith(f"{kind}-")]


def hardware(record: dict) -> str:
    """What a record was timed on: the GPU, or the processor and how many of its threads."""
    found, number = record["provenance"], record["setting"]["threads"]
    if found["gpu"]:
        return found["gpu"]
    return f"{found['processor']}, {number} thread{'s' if number > 1 else ''}"
