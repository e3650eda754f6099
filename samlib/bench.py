"""How long a step takes: contenders interleaved in one process, as ratios to plain SGD.

Every round runs each contender once, in an order drawn anew, on the same batch; a ratio is taken
within a round, so that a machine whose speed drifts drifts for all. Two identical SGD contenders
are the control: their ratio shows what the measurement can resolve.
"""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import geometry, masks, models
from .data import INFO
from .errors import ConfigError, choose
from .provenance import provenance
from .records import write
from .sam import Perturbation, sam_step

Step = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """What is timed: a model of the zoo at 32 x 32 pixels and 100 classes."""

    model: str = "resnet56"
    batch_size: int = 32
    rounds: int = 20
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self):
        choose("model", self.model, models.names())
        for name in ("batch_size", "rounds", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1")


def _network(setting: Setting) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    info = INFO["cifar100"]
    model = models.build(setting.model, num_classes=info.classes).to(setting.device)
    if not models.is_vit(setting.model):
        model = model.to(memory_format=torch.channels_last)
    return model, _sgd(model)


def _sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, foreach=True
    )


def _batch(setting: Setting) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(setting.batch_size, 3, 32, 32, generator=draw).to(setting.device)
    y = torch.randint(100, (setting.batch_size,), generator=draw).to(setting.device)
    return x if models.is_vit(setting.model) else x.to(memory_format=torch.channels_last), y


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y, label_smoothing=0.1)


def _base(setting: Setting) -> Step:
    model, optimizer = _network(setting)
    x, y = _batch(setting)
    return lambda: sam_step(lambda: _loss(model, x, y), optimizer, None)


def _ours(setting: Setting, mask: str) -> Step:
    model, optimizer = _network(setting)
    x, y = _batch(setting)
    perturbation = Perturbation(geometry.L2(), 0.1, masks.MASKS[mask](model, None))
    return lambda: sam_step(lambda: _loss(model, x, y), optimizer, perturbation)


def _floor(setting: Setting, mask: str) -> Step:
    """What cannot be left out: forward, backward to the mask, forward, backward, optimizer."""
    model, optimizer = _network(setting)
    x, y = _batch(setting)
    tensors = [entry.parameter for entry in masks.MASKS[mask](model, None).entries]

    def step() -> None:
        torch.autograd.grad(_loss(model, x, y), tensors)
        optimizer.zero_grad()
        _loss(model, x, y).backward()
        optimizer.step()

    return step


def _peer(setting: Setting) -> Step | None:
    """pytorch-optimizer's SAM, if it is installed (a development dependency)."""
    try:
        from pytorch_optimizer import SAM
    except ImportError:
        return None
    model, _ = _network(setting)
    x, y = _batch(setting)
    keywords = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4, "foreach": True}
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.1, **keywords)

    def step() -> None:
        optimizer.zero_grad()
        _loss(model, x, y).backward()
        optimizer.first_step(zero_grad=True)
        _loss(model, x, y).backward()
        optimizer.second_step(zero_grad=True)

    return step


def contenders(setting: Setting) -> dict[str, Step]:
    """Steps by name, the reference `sgd` first and its twin, the control, second."""
    steps = {"sgd": _base(setting), "sgd again": _base(setting)}
    for mask in ("all", "only_norm", "blocks_1", "blocks_2", "blocks_3", "blocks_23"):
        steps[mask] = _ours(setting, mask)
        steps[f"{mask}, floor"] = _floor(setting, mask)
    if (peer := _peer(setting)) is not None:
        steps["pytorch-optimizer's SAM"] = peer
    return steps


def measure(setting: Setting) -> dict:
    """Time every contender and return a record: seconds and ratios, median and quartiles.

    Raises:
        ConfigError: the device is not there.
    """
    from .train import usable_device

    device = usable_device(setting.device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    threads = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    try:
        steps = contenders(setting)
        for step in steps.values():
            step()
            step()
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        order = random.Random(0)
        for _ in range(setting.rounds):
            for name in order.sample(list(steps), len(steps)):
                wait()
                begun = time.perf_counter()
                steps[name]()
                wait()
                seconds[name].append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)
    ratios = {
        name: quartiles([a / b for a, b in zip(took, seconds["sgd"], strict=True)])
        for name, took in seconds.items()
    }
    run_id = f"step-{setting.model}-batch{setting.batch_size}-{device.type}"
    return {
        "run_id": run_id,
        "setting": vars(setting),
        "seconds": {name: quartiles(took) for name, took in seconds.items()},
        "ratios": ratios,
        "provenance": provenance(setting.device),
    }


def quartiles(values: list[float]) -> list[float]:
    """Lower quartile, median and upper quartile.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    [2.0, 3.0, 4.0]
    """
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def table(record: dict) -> str:
    """A record as text: one line per contender."""
    lines = [f"{record['run_id']}, {record['setting']['rounds']} rounds, ratio to SGD:"]
    for name, (low, median, high) in record["ratios"].items():
        milliseconds = 1000 * record["seconds"][name][1]
        lines.append(f"  {name:24} {median:5.2f}  [{low:.2f}, {high:.2f}]  {milliseconds:8.1f} ms")
    return "\n".join(lines)


def run(setting: Setting, results: Path) -> tuple[dict, Path]:
    """Measure and write the record to `<results>/bench`."""
    record = measure(setting)
    return record, write(results / "bench", record)
