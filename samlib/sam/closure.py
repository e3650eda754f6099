"""What the caller's closure returns, checked: losses with a graph, in a precision that works."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from samlib.errors import ConfigError
from samlib.sam.masks.base import Mask
from samlib.sam.perturbation import Perturbation

Closure = Callable[[], Any]


def _check(loss: Tensor) -> None:
    if not (isinstance(loss, Tensor) and loss.ndim == 0):
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigError(f"the closure must return a scalar loss tensor, not {got}")
    if not loss.requires_grad:
        raise ConfigError(
            "the closure's loss carries no gradient: return it undetached, and do not call "
            "backward() inside the closure's no_grad block"
        )
    if loss.dtype == torch.float16:
        raise ConfigError("fp16 needs a loss scaler, which SAM's step has no place for; use bf16")


def _refuse_fp16(kind: str, module: nn.Module, inputs) -> None:
    """Forward pre-hook of a model on some kind of device: sees autocast wherever it was entered."""
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16:
        raise ConfigError(
            "fp16 autocast needs a loss scaler, which SAM's step has no place for; use bfloat16"
        )


def _called(closure: Closure, mask: Mask | None = None) -> Any:
    """What the closure returns; with a mask, the precision of its model's pass is checked."""
    if not callable(closure):
        raise ConfigError(
            "the closure must be a function without arguments that returns the loss, not a "
            f"{type(closure).__name__}"
        )
    hook = None
    if mask is not None:
        kind = mask.entries[0].parameter.device.type
        hook = mask.model.register_forward_pre_hook(partial(_refuse_fp16, kind))
    try:
        with torch.enable_grad():
            return closure()
    finally:
        if hook is not None:
            hook.remove()


def losses(
    closure: Closure,
    perturbation: Perturbation | None,
    pick: Callable[[Any], Any],
    checked: bool = True,
) -> tuple[Tensor, Tensor]:
    """The loss to descend and the one to ascend, checked.

    Args:
        closure: of the step.
        perturbation: whose source says what the closure returns.
        pick: a descent's `first`, `second` or `plain`.
        checked: whether the precision of the model's pass is.
    """
    mask = perturbation.mask if perturbation and checked else None
    returned, other = _called(closure, mask), None
    if perturbation is not None:
        returned, other = perturbation.source.losses(returned)
    loss = pick(returned)
    up = loss if other is None else other
    _check(loss)
    _check(up)
    return loss, up
