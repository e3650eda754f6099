"""Whole steps that `bench step` times: ours by mask, and a peer's; and the memory they take."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch.optim import Optimizer

from samlib.bench.memory import taken
from samlib.bench.timing import Step, closure_of, random_run
from samlib.sam.step import perturbed, sam_step
from samlib.trainer.config import RunConfig

MASKS = ("all", "only_norm", "blocks_1", "blocks_2", "blocks_3", "blocks_23")
PEER = "pytorch-optimizer's SAM"
# Members of one pass, whose floor is the base optimizer's, by mask.
ONE_PASS = {
    f"{m} on {mask}": (m, mask) for m in ("msam", "last", "lesam") for mask in ("all", "only_norm")
}


class WholeStep(NamedTuple):
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


def _one_pass(config: RunConfig, device: torch.device, member: str, mask: str) -> WholeStep:
    """The training step of a member that takes no pass of its own."""
    run = random_run(
        config.replace(geometry="l2", rho=0.1, mask=mask, member=member), device, config.batch_size
    )
    closure = closure_of(run)
    return WholeStep(run.optimizer, lambda: run.stepper(closure, run.optimizer))


def _ours(config: RunConfig, device: torch.device, mask: str | None = None) -> WholeStep:
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

    return WholeStep(run.optimizer, step, None if mask is None else first)


def missing_peer(config: RunConfig) -> str | None:
    """Why the peer takes no part; None where it does."""
    if config.optimizer != "sgd":
        return f"timed over SGD, not {config.optimizer}"
    if find_spec("pytorch_optimizer") is None:
        return "not installed: pip install pytorch-optimizer"
    return None


def _peer(config: RunConfig, device: torch.device) -> WholeStep:
    """pytorch-optimizer's SAM over SGD."""
    from pytorch_optimizer import SAM

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

    return WholeStep(optimizer, step, first)


def whole_steps(config: RunConfig, device: torch.device) -> dict[str, WholeStep]:
    """Whole steps by name, the reference `base` first and its twin, the control, second."""
    found = {"base": _ours(config, device), "base again": _ours(config, device)}
    found |= {mask: _ours(config, device, mask) for mask in MASKS}
    if config.optimizer != "sgd" or config.momentum:
        found |= {name: _one_pass(config, device, *which) for name, which in ONE_PASS.items()}
    if missing_peer(config) is None:
        found[PEER] = _peer(config, device)
    return found


def memory(steps: dict[str, WholeStep], device: torch.device) -> dict:
    """Bytes that steps take above what is there from one step to the next, by contender.

    Gradients are not there before a step, whether or not a contender keeps them. A first step, by
    which the optimizer comes to its state, is not looked at.

    Returns:
        `parameters`, the size of all of them; `peak` of a step; `between`, what of it must
        outlive the first of two passes, activations left aside.
    """
    groups = steps["base"].optimizer.param_groups
    parameters = sum(p.nbytes for group in groups for p in group["params"])
    peak, between = {}, {}
    for name, contender in steps.items():
        contender.step()
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
