"""Promises checked at every step, where the masked weights are: a mask is made once, and the
training around it goes on changing things.
"""

import gc
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from samlib.errors import ConfigError
from samlib.sam.ascent import over_all, reached
from samlib.sam.masks.base import HALF, OF_THE_TRAINED, Mask
from samlib.sam.masks.sharded import refuse_sharded
from samlib.sam.perturbation import Perturbation
from samlib.sam.state import Stateful, Where

_CASTS = ("ToCopyBackward0", "CopyBackwards", "CopySlices")
# By mask, the wrappers of its weights, and all scalers, that there were when first looked for.
_WRAPPERS: WeakKeyDictionary[Mask, list[ref]] = WeakKeyDictionary()
_SCALERS: WeakKeyDictionary[Mask, list[ref]] = WeakKeyDictionary()


def weights(perturbation: Perturbation, everything: bool = False) -> None:
    """Check what the mask was made of: still trainable, in full precision, replicated for SAM.

    Raises:
        ConfigError: a parameter was frozen or turned to half precision, or its
            `DistributedDataParallel` has a static graph.
    """
    mask = perturbation.mask
    for name, p, *_ in (*mask.relies_on, *reached(perturbation, everything)):
        if not p.requires_grad:
            raise ConfigError(
                f"{name} was frozen after its mask was made: make the mask again, without it"
            )
    for name, p, _ in mask.entries:
        if p.dtype in HALF:
            raise ConfigError(
                f"{name} was turned to {p.dtype} after its mask was made: most of it would not "
                "move by a step of rho; keep it in float32 and use bfloat16 autocast"
            )
    for wrapper in _wrappers(mask):
        _refuse_wrapper(wrapper())


def one_for_all(perturbation: Perturbation, descent: str | None) -> None:
    """Raise a ConfigError where replicas would descend along, or decide by, gradients of their own.

    Args:
        perturbation: whose `average` makes one gradient of all replicas'.
        descent: name of the one that keeps the first pass's gradient; None where `when` looks.
    """
    if perturbation.average is None and any(w() is not None for w in _wrappers(perturbation.mask)):
        who = f"descent {descent}" if descent else f"when {perturbation.when.name}"
        raise ConfigError(
            f"{who} uses the gradient of the ascent's pass, which DistributedDataParallel does not "
            "average: replicas would drift apart; give the perturbation average=, a function that "
            "averages a list of gradients among the processes, in place"
        )


def stepped(part: Stateful, where: Where, optimizers: Sequence[Optimizer]) -> None:
    """Raise a ConfigError for a parameter whose `.grad` a part reads and no optimizer drops."""
    if not all(hasattr(each, "param_groups") for each in optimizers):
        return
    held = {id(p) for each in optimizers for group in each.param_groups for p in group["params"]}
    for name, p, *_ in where:
        if id(p) not in held:
            raise ConfigError(
                f"{name} is trainable and in none of the optimizers, so that its .grad, which "
                f"{part.name} reads, would add up from step to step: freeze it before the mask is "
                "made, or give sam_step its optimizer, too"
            )


def covered(who: str, mask: Mask, optimizers: Sequence[Optimizer]) -> None:
    """Raise a ConfigError for a parameter that steps and that a part on all of them never saw."""
    known = {id(p) for _, p in mask.trainable}
    groups = (group for each in optimizers for group in getattr(each, "param_groups", ()))
    new = {id(p) for g in groups for p in g["params"] if p.requires_grad and id(p) not in known}
    if new:
        name = next((n for n, p in mask.model.named_parameters() if id(p) in new), "one")
        raise ConfigError(
            f"{who} works on every parameter that steps, and {name} was not trainable, or not the "
            "model's, when the mask was made: make the mask again, of a module that holds it"
        )


def _wrappers(mask: Mask) -> list[ref]:
    """Who averages the masked weights' gradients; looked for once, which takes milliseconds."""
    if not (dist.is_available() and dist.is_initialized()):
        return []
    if mask not in _WRAPPERS:
        masked = {id(e.parameter) for e in mask.entries}
        kind = nn.parallel.DistributedDataParallel
        every = [found for found in gc.get_objects() if issubclass(type(found), kind)]
        of_it = (w for w in every if any(id(p) in masked for p in w.parameters()))
        _WRAPPERS[mask] = [ref(w) for w in of_it]
    return _WRAPPERS[mask]


def _refuse_wrapper(wrapper: nn.parallel.DistributedDataParallel | None) -> None:
    """Raise a ConfigError for one that takes the ascent's pass for a whole one."""
    if wrapper is None:  # gone since
        return
    if wrapper.static_graph:
        raise ConfigError(
            "DistributedDataParallel with static_graph takes the ascent's pass, whose gradients "
            "it never sees, for a whole one: replicas would drift apart; leave static_graph off"
        )
    if wrapper._join_config.enable:
        raise ConfigError(
            "DistributedDataParallel.join has a process that is done answer every pass, also the "
            "ascent's, which averages nothing: give each process as many batches"
        )


def graph(loss: Tensor, perturbation: Perturbation) -> None:
    """Check what lies between a loss and the weights: no fp16, no parameter the mask never saw.

    Wherever fp16 begins, and also in what torch.compile made: at casts from it and to it, at norm
    layers, which take half precision beside weights in float32, and at others' functions. Some 200
    microseconds for a ResNet-50.

    Raises:
        ConfigError: a gradient would pass through fp16, the mask would now select more, or the
            model is wrapped with a static graph.
    """
    mask = perturbation.mask
    for node in _nodes(loss):
        kind = type(node).__name__
        if kind == "AccumulateGrad":
            if id(node.variable) not in mask.seen:
                _refuse_new(node.variable, perturbation)
        elif _may_change_precision(kind):
            if any(t is not None and t.dtype == torch.float16 for t in _around(node, kind)):
                compiled = kind == "CompiledFunctionBackward"
                where = "inside a compiled model" if compiled else "a cast to it or layers in it"
                raise ConfigError(
                    f"fp16 autocast, {where}, needs a loss scaler, which SAM's step has no place "
                    "for: gradients that round to zero leave no ascent; use bfloat16"
                )
            if kind == "_DDPSinkBackward":  # of a wrapper made after the first step
                _refuse_wrapper(node.ddp_weakref())


def unscaled(loss: Tensor, mask: Mask) -> None:
    """Raise a ConfigError for a loss that a `GradScaler` has multiplied."""
    node = loss.grad_fn
    if type(node).__name__ != "MulBackward0":
        return
    factor = node._saved_other  # type: ignore[union-attr]  # of a product
    if not (isinstance(factor, Tensor) and factor.ndim == 0):
        return
    if mask not in _SCALERS:
        every = (s for s in gc.get_objects() if issubclass(type(s), torch.amp.GradScaler))
        _SCALERS[mask] = [ref(s) for s in every]
    for scaler in _SCALERS[mask]:
        scale = getattr(scaler(), "_scale", None)
        if scale is not None and scale.data_ptr() == factor.data_ptr():
            raise ConfigError(
                "the loss was multiplied by a GradScaler, and the optimizer would step along the "
                "multiplied gradient: leave the scaler out and use bfloat16 autocast"
            )


@cache
def _may_change_precision(kind: str) -> bool:
    """By the name of a node: those of torch's own operations end in a digit."""
    return kind in _CASTS or "Norm" in kind or not kind[-1].isdigit()


def _around(node: Any, kind: str) -> Iterable[Any]:
    """What has the dtypes of the gradients that come to a node, and go on from a cast."""
    if kind == "CompiledFunctionBackward":
        yield from node.saved_tensors
    yield from getattr(node, "_input_metadata", ())
    if kind in _CASTS:
        for further, _ in node.next_functions:
            if further is not None and type(further).__name__ != "AccumulateGrad":
                yield from getattr(further, "_input_metadata", ())


def _nodes(loss: Tensor) -> Iterator[Any]:
    """Every node of a loss's graph."""
    found: set[Any] = {loss.grad_fn} - {None}
    ahead = list(found)
    while ahead:
        for node, _ in ahead.pop().next_functions:
            if node is not None and node not in found:
                found.add(node)
                ahead.append(node)
    return iter(found)


def _refuse_new(leaf: Tensor, perturbation: Perturbation) -> None:
    """A leaf that was not trainable, or not there, when the mask was made: would that take it?"""
    mask = perturbation.mask
    if not isinstance(leaf, nn.Parameter):  # an input with a gradient
        return
    now = list(mask.model.named_parameters())
    name = next((n for n, p in now if p is leaf), None)
    of_now = {id(p) for _, p in now}
    if name and any(id(e.parameter) not in of_now for e in mask.entries):
        refuse_sharded(mask.model)  # since the mask was made
        raise ConfigError(f"parameters were replaced: {OF_THE_TRAINED}")
    if name and (over_all(perturbation) or mask.would_select(leaf)):
        raise ConfigError(
            f"{name} became trainable after mask {mask.kind} was made, which would select it: make "
            "the mask again"
        )
    mask.seen.add(id(leaf))


def gradients_now(mask: Mask) -> list[tuple[Tensor | None, int]]:
    """What `.grad` of everything trainable is, to see whether a closure writes to it."""
    grads = [p.grad for _, p in mask.trainable]
    return [(g, -1 if g is None else g._version) for g in grads]


def closure_left_grads(mask: Mask, before: list[tuple[Tensor | None, int]]) -> None:
    """Raise a ConfigError if a closure ran a backward pass of its own."""
    for (old, version), (new, now) in zip(before, gradients_now(mask), strict=True):
        if old is not new or version != now:
            raise ConfigError("the closure returns the loss and must not call backward()")


def outside_ddp(optimizers: Sequence[Optimizer]) -> None:
    """Raise a ConfigError where `DistributedDataParallel`'s forward runs, which arms no backward.

    Lightning runs a training step there.
    """
    wrapper = getattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", None)
    if wrapper is None:
        return
    replicated = {id(p) for p in wrapper.parameters()}
    groups = (group for each in optimizers for group in each.param_groups)
    if any(id(p) in replicated for group in groups for p in group["params"]):
        raise ConfigError(
            "sam_step runs inside the forward pass of DistributedDataParallel, where a backward "
            "pass of its own averages nothing: give it backward=, as Lightning's manual_backward"
        )


def dropped(optimizer: Optimizer) -> None:
    """Have an optimizer drop its gradients, and check that it does.

    Raises:
        ConfigError: it keeps them, as one that accumulates over micro-batches does.
    """
    groups = getattr(optimizer, "param_groups", ())
    weights = [p for group in groups for p in group["params"] if p.requires_grad]
    p = next((p for p in weights if p.grad is not None), None)
    made = p is None and bool(weights)
    if made:  # before the first micro-batch there is no gradient to see kept
        p = min(weights, key=Tensor.numel)
        p.grad = torch.empty_like(p)
    grad, version = (p.grad, p.grad._version) if p is not None else (None, 0)
    optimizer.zero_grad()
    if p is None or grad is None:
        return
    kept = p.grad is grad and grad._version == version
    if made:
        p.grad = None
    if kept:
        raise ConfigError(
            f"{type(optimizer).__name__} keeps its gradients when they are to be dropped, so it "
            "accumulates: use `perturbed`, a backward pass in its block, then step and zero_grad"
        )
