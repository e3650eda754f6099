"""The two-pass step around an untouched base optimizer.

    w <- base(w, grad L(w + eps))

(Foret et al. 2021, algorithm 1; `ascent` makes eps.) Weights come back bit for bit because they
are copied back, which subtracting eps would not give in floating point.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from samlib.errors import ConfigError
from samlib.sam.ascent import Ascent, ascent, over_all, reached
from samlib.sam.masks.base import Mask
from samlib.sam.perturbation import Perturbation
from samlib.sam.restore import Saved
from samlib.sam.reuse import reuse

Closure = Callable[[], Tensor]
OnAscent = Callable[[Ascent], None]
Backward = Callable[[Tensor], None]


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


def _loss(closure: Closure, mask: Mask | None = None) -> Tensor:
    """What the closure returns, checked; with a mask, the precision of its model's pass, too."""
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
            loss = closure()
    finally:
        if hook is not None:
            hook.remove()
    _check(loss)
    return loss


class _Buffers:
    """The norm layers' running statistics in one step: a block in which both passes run.

    After the block they are as both passes left them, or as the first one did if `kept` was called
    between the two; after an exception as before it.
    """

    def __init__(self, mask: Mask):
        self._mask = mask

    def __enter__(self) -> "_Buffers":
        self._before, self._kept = Saved(self._mask.norm_buffers), None
        return self

    def keep(self) -> None:
        """Have the block end with what the buffers hold now."""
        with torch.no_grad():
            self._kept = Saved(self._mask.norm_buffers)

    def __exit__(self, kind, error, traceback) -> None:
        back = self._kept if kind is None else self._before
        if back is not None:
            with torch.no_grad():
                back.restore()


@contextmanager
def _moved(mask: Mask, eps: list[Tensor]) -> Iterator[None]:
    """The masked weights at w + eps inside the block, at w after it."""
    with torch.no_grad():
        weights = Saved([e.parameter for e in mask.entries], [e.index for e in mask.entries])
    try:
        with torch.no_grad():
            weights.add(eps)
        del eps
        torch.clear_autocast_cache()  # or an outer autocast would reuse casts of old weights
        yield
    finally:
        with torch.no_grad():
            weights.restore()
        torch.clear_autocast_cache()


@contextmanager
def perturbed(
    closure: Closure, perturbation: Perturbation, on_ascent: OnAscent | None = None
) -> Iterator[Tensor]:
    """Weights at w + eps inside the block, at w again after it, bit for bit.

    Runs the closure once, for the ascent gradient; what is computed inside the block (usually a
    second forward and a backward that accumulates into `.grad`) sees the perturbed weights.
    `sam_step` is this and an optimizer step; use it directly to accumulate over micro-batches.
    An exception in the closure or the block leaves weights and norm-layer buffers as they were
    before.

    A parameter of the mask that this loss does not use, as a batch may leave out a part of a
    model, is not moved; each is named once per mask in a warning, because one that is used may
    look the same (inside a reentrant `torch.utils.checkpoint`).

    Args:
        closure: forward pass and loss, a scalar tensor; called once, in the caller's mode.
        perturbation: what to do.
        on_ascent: called at w + eps with the `Ascent`, for whoever measures it.

    Yields:
        The unperturbed loss, detached.

    Raises:
        ConfigError: the closure's result is no scalar with a gradient, or with none in the mask;
            autocast is fp16; a parameter that the step needs was frozen.
    """
    mask, both = perturbation.mask, perturbation.batchnorm == "both"
    frozen = [name for name, p, *_ in reached(perturbation) if not p.requires_grad]
    if frozen:
        raise ConfigError(
            f"{frozen[0]} was frozen after its mask was made: make the mask again, without it"
        )
    # With the radius over everything the first backward pass uses up the whole graph.
    kept_stages = 0 if over_all(perturbation) else mask.untouched
    with (
        _Buffers(mask) as buffers,
        reuse(mask.model, kept_stages, mask.norms, statistics=both) as memory,
    ):
        loss = _loss(closure, mask)
        found = ascent(perturbation, loss)
        # A loss that lives through the second pass keeps the ascent graph alive with it.
        first, loss = loss.detach(), None
        if not both:
            buffers.keep()
        with _moved(mask, found.eps):
            if on_ascent is not None:
                on_ascent(found)
            mask.observe(found.gradient)  # last: it may choose other coordinates for the next step
            del found
            if memory is not None:
                memory.replay()
            yield first


def sam_step(
    closure: Closure,
    optimizer: Optimizer | Sequence[Optimizer],
    perturbation: Perturbation | None,
    *,
    epoch: int | None = None,
    on_ascent: OnAscent | None = None,
    backward: Backward | None = None,
) -> Tensor:
    """One training step: two passes, one step of the base optimizer.

    Zeroes the optimizer's gradients before the descent pass. Schedulers, clipping (a step
    pre-hook), parameter groups and `state_dict` stay the optimizer's own. Under
    `DistributedDataParallel` leave `static_graph` off: it takes the first pass, whose gradients it
    never sees, for a whole one, and its replicas drift apart.

    Args:
        closure: forward pass and loss, a scalar tensor; called twice.
        optimizer: any `torch.optim.Optimizer` whose step needs no closure (LBFGS does), unwrapped,
            or several that share the parameters among them.
        perturbation: the ascent step; None is a plain step of the optimizer.
        epoch: from 0; outside the perturbation's active epochs the step is a plain one. None,
            for a loop without epochs, is always active.
        on_ascent: as in `perturbed`.
        backward: called with the descent pass's loss in place of `loss.backward()`, as
            `accelerator.backward` or Lightning's `manual_backward`.

    Returns:
        The loss at the unperturbed weights, detached.

    Raises:
        ConfigError: as `perturbed`, or no optimizer that steps by itself.
    """
    optimizers = _optimizers(optimizer)
    backward = backward or Tensor.backward
    if perturbation is None or not perturbation.active(epoch):
        torch.clear_autocast_cache()  # as the perturbed step does
        _zero_grad(optimizers)
        # Refused from the first epoch on, not when the perturbed ones begin.
        loss = _loss(closure, perturbation and perturbation.mask)
        backward(loss)
        first = loss.detach()
    else:
        with perturbed(closure, perturbation, on_ascent) as first:
            _zero_grad(optimizers)
            backward(_loss(closure))
    for each in optimizers:
        each.step()
    return first


def _optimizers(given: Optimizer | Sequence[Optimizer]) -> Sequence[Optimizer]:
    """One or several as several, checked."""
    optimizers = given if isinstance(given, Sequence) else (given,)
    for each in optimizers:
        if isinstance(each, torch.optim.LBFGS):
            raise ConfigError(
                "LBFGS runs the closure as often as it likes, which a step of two passes cannot: "
                "use another optimizer"
            )
        if not (hasattr(each, "step") and hasattr(each, "zero_grad")):
            raise ConfigError(f"optimizer must be a torch.optim.Optimizer, not {each!r}")
    if not optimizers:
        raise ConfigError("optimizer must be an optimizer or several, not an empty list")
    return optimizers


def _zero_grad(optimizers: Sequence[Optimizer]) -> None:
    for each in optimizers:
        each.zero_grad()
