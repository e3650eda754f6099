"""How long a step takes, as a ratio to the base optimizer's, and where its time goes.

A ratio is taken within a round of `timing.interleaved`. Two identical contenders of the base
optimizer are the control: their ratio shows what the measurement can resolve. The pieces of a step
are timed in the same rounds; their sums are the floors.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from samlib import models
from samlib.bench.memory import taken
from samlib.bench.timing import (
    Step,
    closure_of,
    interleaved,
    network,
    quartiles,
    random_run,
    threads,
)
from samlib.errors import ConfigError, choose
from samlib.provenance import provenance
from samlib.records.store import write
from samlib.sam import geometry, masks
from samlib.sam.step import Perturbation, perturbed, sam_step
from samlib.study import profiles
from samlib.trainer.config import RunConfig

MASKS = ("all", "only_norm", "blocks_1", "blocks_2", "blocks_3", "blocks_23")


@dataclass(frozen=True)
class Setting:
    """What is timed: a network of a profile on its own data's size, or one of the zoo.

    Attributes:
        profile: take network, image size, batch, optimizer and precision from there.
        family: which of its networks; None is the headline's.
        model: without a profile, a model of the zoo at 32 x 32 pixels and 100 classes, with SGD;
            None is resnet56.
        batch_size: None is the profile's, or 32.
        rounds: how often every contender is timed.
        device, threads: where; threads on the CPU.
    """

    profile: str | None = None
    family: str | None = None
    model: str | None = None
    batch_size: int | None = None
    rounds: int = 20
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self):
        if self.profile is not None and self.model is not None:
            raise ConfigError("a profile brings its own model: give --profile or --model")
        if self.profile is None and self.family is not None:
            raise ConfigError("a family is one of a profile: give --profile, too")
        if self.model is not None:
            choose("model", self.model, models.names())
        for name in ("batch_size", "rounds", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1")
        _ = self.config  # refuses an unknown profile or family

    @property
    def config(self) -> RunConfig:
        """The base optimizer's run; small steps keep the weights of a long bench finite."""
        if self.profile is None:
            model, size = self.model or "resnet56", self.batch_size or 32
            base = RunConfig(dataset="cifar100", model=model, batch_size=size)
        else:
            profile = profiles.get(self.profile)
            family = choose("family", self.family or profile.headline, profile.bases)
            base = profile.bases[family]
            base = base.replace(batch_size=self.batch_size or base.batch_size)
        return base.replace(lr=min(base.lr, 1e-3))


class Contender(NamedTuple):
    """A whole step of a run of its own.

    Attributes:
        optimizer: whose gradients can be dropped.
        step: both passes and the optimizer.
        first: a block at whose beginning the first pass is done and the weights are moved; None
            for a step of one pass.
    """

    optimizer: Optimizer
    step: Step
    first: Callable[[], AbstractContextManager] | None = None


def _contender(config: RunConfig, device: torch.device, mask: str | None = None) -> Contender:
    """The training step of `train`, of the base optimizer or with SAM on a mask."""
    if mask is not None:
        config = config.replace(geometry="l2", rho=0.1, mask=mask)
    run = random_run(config, device, config.batch_size)
    closure = closure_of(run)

    @contextmanager
    def first() -> Iterator[None]:
        chosen = run.perturbation.mask
        # Activations that the second pass takes over, it would have to hold anyway.
        untouched, chosen.untouched = chosen.untouched, 0
        with perturbed(closure, run.perturbation):
            yield
        chosen.untouched = untouched

    def step() -> None:
        sam_step(closure, run.optimizer, run.perturbation)

    return Contender(run.optimizer, step, None if mask is None else first)


def _peer(config: RunConfig, device: torch.device) -> Contender | None:
    """pytorch-optimizer's SAM over SGD, if it is installed (a development dependency)."""
    try:
        from pytorch_optimizer import SAM
    except ImportError:
        return None
    run = random_run(config, device, config.batch_size)
    closure = closure_of(run)
    keywords = {"lr": config.lr, "momentum": config.momentum, "weight_decay": config.weight_decay}
    parameters = run.model.parameters()
    optimizer = SAM(parameters, torch.optim.SGD, rho=0.1, foreach=True, **keywords)

    @contextmanager
    def first() -> Iterator[None]:
        optimizer.zero_grad()
        closure().backward()
        optimizer.first_step(zero_grad=True)
        yield
        closure().backward()
        optimizer.second_step(zero_grad=True)

    def step() -> None:
        with first():
            pass

    return Contender(optimizer, step, first)


def contenders(config: RunConfig, device: torch.device) -> dict[str, Contender]:
    """Whole steps by name, the reference `base` first and its twin, the control, second."""
    found = {"base": _contender(config, device), "base again": _contender(config, device)}
    found |= {mask: _contender(config, device, mask) for mask in MASKS}
    if config.optimizer == "sgd" and (peer := _peer(config, device)) is not None:
        found["pytorch-optimizer's SAM"] = peer
    return found


def memory(steps: dict[str, Contender], device: torch.device) -> dict:
    """Bytes that steps take above what is there from one step to the next, by contender.

    Gradients are not there before a step, whether or not a contender keeps them. Every contender
    must have done a step, so that its optimizer has its state.

    Returns:
        `parameters`, the size of all of them; `peak` of a step; `between`, what of it must
        outlive the first of two passes, activations left aside.
    """
    groups = steps["base"].optimizer.param_groups
    parameters = sum(p.nbytes for group in groups for p in group["params"])
    peak, between = {}, {}
    for name, contender in steps.items():
        contender.optimizer.zero_grad()
        with taken(device) as whole:
            contender.step()
        peak[name] = whole.peak
        if contender.first is not None:
            contender.optimizer.zero_grad()
            with ExitStack() as stack:
                with taken(device) as kept:
                    stack.enter_context(contender.first())
                between[name] = kept.net
    return {"parameters": parameters, "peak": peak, "between": between}


class _Free(torch.autograd.Function):
    """A loss that costs nothing, its gradient given beforehand."""

    @staticmethod
    def forward(ctx, gradients: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return weights[0].new_zeros(())

    @staticmethod
    def backward(ctx, _) -> tuple:
        return (None, *ctx.gradients)


def pieces(config: RunConfig, device: torch.device) -> dict[str, Step]:
    """What a step is made of, each alone.

    `forward`; `forward and backward`, as the base optimizer needs it; `gradient of <mask>`, a
    forward pass and the backward pass to the mask alone; `perturb <mask>`: eps from a gradient
    that is there, weights moved and put back; `reused by <mask>`, the forward pass up to its first
    stage, where earlier ones are left alone; `optimizer`, the step with gradients that are there.
    """
    run = random_run(config, device, config.batch_size)
    closure, optimizer = closure_of(run), run.optimizer

    def forward_and_backward() -> None:
        optimizer.zero_grad()
        closure().backward()

    def gradient(tensors: list[Tensor]) -> Step:
        return lambda: torch.autograd.grad(closure(), tensors)

    def perturb(mask: masks.Mask, tensors: list[Tensor]) -> Step:
        perturbation = Perturbation(geometry.L2(), 0.1, mask)
        given = [torch.full_like(t, 1e-3) for t in tensors]

        def step() -> None:
            with perturbed(lambda: _Free.apply(given, *tensors), perturbation):
                pass

        return step

    def reused(stages: int) -> Step:
        x = run.inputs(run.splits.train_images)

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                run.model.up_to(x, stages)

        return step

    stepping = random_run(config, device, config.batch_size)
    closure_of(stepping)().backward()
    found: dict[str, Step] = {
        "forward": closure,
        "forward and backward": forward_and_backward,
        "optimizer": lambda: stepping.optimizer.step(),
    }
    for name in MASKS:
        mask = masks.MASKS[name](run.model, config)
        tensors = [entry.parameter for entry in mask.entries]
        found[f"gradient of {name}"] = gradient(tensors)
        found[f"perturb {name}"] = perturb(mask, tensors)
        if mask.untouched:
            found[f"reused by {name}"] = reused(mask.untouched)
    return found


def floor(took: dict[str, list[float]], mask: str | None) -> list[float]:
    """Round by round, what a step cannot leave out: its gradients and the optimizer.

    What the second pass can take over from the first is counted once. None is the base optimizer,
    whose step should come to its floor: pieces add up.
    """
    total = [a + b for a, b in zip(took["forward and backward"], took["optimizer"], strict=True)]
    if mask is None:
        return total
    once = took.get(f"reused by {mask}", [0.0] * len(total))
    first = took[f"gradient of {mask}"]
    return [a + b - c for a, b, c in zip(total, first, once, strict=True)]


def measure(setting: Setting) -> dict:
    """Time every contender and every piece, and return a record.

    It holds medians and quartiles: `ratios` and `seconds` of whole steps, `floors` as ratios by
    mask, `pieces` in seconds, `memory` in bytes.

    Raises:
        ConfigError: the device is not there.
    """
    from samlib.trainer.one_run import usable_device

    device, config = usable_device(setting.device), setting.config
    with threads(setting.threads):
        whole, parts = contenders(config, device), pieces(config, device)
        steps = {name: contender.step for name, contender in whole.items()}
        took = interleaved(steps | parts, setting.rounds, device)
        bytes_taken = memory(whole, device)

    def over_base(values: list[float]) -> list[float]:
        return quartiles([a / b for a, b in zip(values, took["base"], strict=True)])

    return {
        "run_id": _name(config, device),
        "setting": vars(setting),
        "network": network(config),
        "ratios": {name: over_base(took[name]) for name in steps},
        "floors": {name or "base": over_base(floor(took, name)) for name in (None, *MASKS)},
        "seconds": {name: quartiles(took[name]) for name in steps},
        "pieces": {name: quartiles(took[name]) for name in parts},
        "memory": bytes_taken,
        "provenance": provenance(setting.device),
    }


def _name(config: RunConfig, device: torch.device) -> str:
    """A file per network and kind of device; what is usual goes without saying."""
    found = network(config)
    unusual = [v for v in (config.optimizer, config.precision) if v not in ("sgd", "fp32")]
    size = f"{found['image_size']}px-batch{config.batch_size}"
    return "-".join(["step", config.model, size, *unusual, device.type])


def table(record: dict) -> str:
    """A record as text: a line per step and per piece, then the memory of each step."""
    lines = [f"{record['run_id']}, {record['setting']['rounds']} rounds, ratio to base (floor):"]
    for name, (low, median, high) in record["ratios"].items():
        took = f"{1000 * record['seconds'][name][1]:9.2f} ms"
        least = record["floors"].get(name)
        beside = f"  ({least[1]:.2f})" if least else ""
        lines.append(f"  {name:24} {median:5.2f}  [{low:.2f}, {high:.2f}] {took}{beside}")
    for name, (_, median, _) in record["pieces"].items():
        lines.append(f"  {name:42} {1000 * median:9.2f} ms")
    if found := record.get("memory"):  # not in older records
        lines.append(f"memory (all parameters: {found['parameters'] / 1e6:.3f} MB):")
        for name, peak in found["peak"].items():
            kept = found["between"].get(name)
            beside = "" if kept is None else f", {kept / 1e6:.3f} MB kept between passes"
            lines.append(f"  {name:42} {peak / 1e6:9.3f} MB{beside}")
    return "\n".join(lines)


def run(setting: Setting, results: Path) -> tuple[dict, Path]:
    """Measure and write the record to `<results>/bench`."""
    record = measure(setting)
    return record, write(results / "bench", record)
