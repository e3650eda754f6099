"""What the caller's closure returns, checked: losses with a graph, in a precision that works."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from samlib.errors import ConfigError
from samlib.sam import checks
from samlib.sam.masks.base import Mask
from samlib.sam.perturbation import Perturbation

Closure = Callable[[], Any]


def _check(loss: Tensor) -> None:
    if not (isinstance(loss, Tensor) and loss.ndim == 0):
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigError(f"the closure must return a scalar loss tensor, not {got}")
    if torch.is_inference_mode_enabled():
        raise ConfigError("torch.inference_mode takes no gradients: step outside of it")
    if not loss.requires_grad:
        raise ConfigError(
            "the closure's loss carries no gradient: return it undetached, and do not call "
            "backward() inside the closure's no_grad block"
        )
    if loss.dtype == torch.float16:
        raise ConfigError("fp16 needs a loss scaler, which SAM's step has no place for; use bf16")


def _called(closure: Closure, mask: Mask | None = None) -> Any:
    """What the closure returns; with a mask, it is checked that it leaves `.grad` alone."""
    if not callable(closure):
        raise ConfigError(
            "the closure must be a function without arguments that returns the loss, not a "
            f"{type(closure).__name__}"
        )
    before = [] if mask is None else checks.gradients_now(mask)
    with torch.enable_grad():
        try:
            returned = closure()
        except TypeError:
            _refuse_arguments(closure)
            raise
    if mask is not None:
        checks.closure_left_grads(mask, before)
    return returned


def _refuse_arguments(closure: Closure) -> None:
    """Raise a ConfigError if it is the closure that cannot be called without arguments."""
    try:
        inspect.signature(closure).bind()
    except TypeError as error:
        raise ConfigError(
            f"the closure is called without arguments ({error}): have it take batch and model from "
            "around it"
        ) from None
    except ValueError:  # a function without a signature, in C
        return


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
        checked: whether the graph is, for what `checks.graph` refuses.
    """
    mask = perturbation.mask if perturbation and checked else None
    returned, other = _called(closure, mask), None
    if perturbation is not None:
        returned, other = perturbation.source.losses(returned)
    loss = pick(returned)
    up = loss if other is None else other
    _check(loss)
    _check(up)
    if perturbation is not None and checked:
        checks.graph(up, perturbation)
        checks.unscaled(loss, perturbation.mask)
    return loss, up
