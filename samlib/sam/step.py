"""The two-pass step around an untouched base optimizer.

    g = grad L(w) on the mask;  eps = rho T_w^2 g / ||T_w g||;  w <- base(w, grad L(w + eps))

(Foret et al. 2021, eq. 2 and algorithm 1; the masked form is specification 1.0.) The first pass
asks autograd for the masked gradients only: `.grad` stays untouched and the backward pass ends
at the first masked layer. Weights come back bit for bit because they are copied back, which
subtracting eps would not give in floating point.
"""

import math
import numbers
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from samlib.errors import ConfigError, choose
from samlib.sam.geometry import Geometry, Scale
from samlib.sam.masks.base import Mask
from samlib.sam.restore import Saved, take
from samlib.sam.reuse import reuse

Closure = Callable[[], Tensor]
OnEps = Callable[[list[Tensor]], None]


@dataclass(frozen=True)
class Perturbation:
    """What the ascent step does: which ball, how large, over which coordinates, and when.

    Args:
        geometry: T_w and p, from `samlib.geometry`.
        rho: radius of the ball, finite and >= 0.
        mask: the coordinates that move, from `samlib.masks`.
        radius_over: "mask": the norm in the step runs over the mask, so ||T_w^-1 eps|| = rho
            (the paper). "all": over all trainable parameters, then masked, so it is smaller
            (SSAM; specification 2).
        batchnorm: "both": running statistics follow both passes (the authors' code). "first":
            those of the second pass are dropped.
        start, end: active epochs, start <= epoch < end; end None is for ever.

    Raises:
        ConfigError: a value out of range, with the valid ones.
    """

    geometry: Geometry
    rho: float
    mask: Mask
    radius_over: Literal["mask", "all"] = "mask"
    batchnorm: Literal["both", "first"] = "both"
    start: int = 0
    end: int | None = None

    def __post_init__(self):
        if isinstance(self.rho, bool) or not isinstance(self.rho, numbers.Real):
            raise ConfigError(f"rho must be a number, not {self.rho!r}")
        for name, kind in (("geometry", Geometry), ("mask", Mask)):
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(
                    f"{name} must be a samlib {kind.__name__}, not {getattr(self, name)!r}"
                )
        epochs = (self.start, 0 if self.end is None else self.end)
        if not all(isinstance(e, int) and not isinstance(e, bool) for e in epochs):
            raise ConfigError(f"active epochs {self.start!r} to {self.end!r} are not whole numbers")
        if not (math.isfinite(self.rho) and self.rho >= 0):
            raise ConfigError(f"rho must be finite and >= 0, not {self.rho!r}")
        choose("radius_over", self.radius_over, ("mask", "all"))
        choose("batchnorm", self.batchnorm, ("both", "first"))
        if self.start < 0 or (self.end is not None and self.end < self.start):
            raise ConfigError(f"active epochs {self.start} to {self.end} are not a range")

    def active(self, epoch: int | None) -> bool:
        """Whether this epoch (from 0) is perturbed; None, for a loop without epochs, is."""
        if epoch is None:
            return True
        return self.start <= epoch and (self.end is None or epoch < self.end)


def ascent(perturbation: Perturbation, loss: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The step eps at each entry of the mask, from a loss whose graph it uses up.

    Returns:
        eps and the gradient, one tensor per entry of `mask.entries`: of the parameter's shape,
        or (k,) for k indices.

    Raises:
        ConfigError: the loss has no gradient in any parameter of the mask, or has been
            differentiated already.
    """
    mask, geometry = perturbation.mask, perturbation.geometry
    over, everything = _needed(perturbation), _over_all(perturbation)
    at = list(range(len(over)))
    if everything:
        position = {id(p): i for i, (_, p) in enumerate(over)}
        at = [position[id(e.parameter)] for e in mask.entries]
    names = [o[0] for o in over]
    weights = [o[1] for o in over]
    try:
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        raise ConfigError("the closure returns the loss and must not call backward()") from error
    if any(g is None or g.is_sparse for g in grads):
        if all(grads[i] is None for i in at):
            raise ConfigError(
                "the loss has no gradient in any parameter of the mask: make the mask from the "
                "model that is trained, after a deepcopy or load_state_dict(assign=True), and give "
                "torch.utils.checkpoint use_reentrant=False"
            )
        grads = _dense(mask, names, weights, grads)
    with torch.no_grad():
        T = geometry.T(names, weights, grads)
        norm = geometry.norm(T, grads) if everything else None
        index = [e.index for e in mask.entries]
        masked = [take(grads[i], j) for i, j in zip(at, index, strict=True)]
        T_masked: Scale = T and [take(T[i], j) for i, j in zip(at, index, strict=True)]
        return geometry.eps(perturbation.rho, T_masked, masked, norm), masked


def _over_all(perturbation: Perturbation) -> bool:
    """Whether the step needs the gradient of every parameter; p = inf has no norm to take."""
    return perturbation.radius_over == "all" and perturbation.geometry.p != math.inf


def _needed(perturbation: Perturbation) -> Sequence[tuple]:
    """Everything whose gradient the step needs, in tuples that begin with name and parameter."""
    mask = perturbation.mask
    return mask.trainable if _over_all(perturbation) else mask.entries


def _dense(
    mask: Mask, names: list[str], weights: list[Tensor], grads: Sequence[Tensor | None]
) -> list[Tensor]:
    """Gradients as dense tensors, zeros where the loss does not use a weight; that is said once."""
    new = [n for n, g in zip(names, grads, strict=True) if g is None and n not in mask.unused]
    if new:
        more = f" and {len(new) - 3} more" if len(new) > 3 else ""
        warnings.warn(
            f"the ascent leaves {', '.join(new[:3])}{more} alone, which the loss does not reach. "
            "That is right for what a batch does not use; parameters inside a reentrant "
            "torch.utils.checkpoint are only hidden: give it use_reentrant=False",
            stacklevel=2,
        )
        mask.unused.update(new)
    pairs = zip(grads, weights, strict=True)
    return [torch.zeros_like(w) if g is None else g.to_dense() for g, w in pairs]


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


@contextmanager
def perturbed(
    closure: Closure, perturbation: Perturbation, on_eps: OnEps | None = None
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
        on_eps: called with eps, one tensor per `mask.entries`, for whoever measures it.

    Yields:
        The unperturbed loss, detached.

    Raises:
        ConfigError: the closure's result is no scalar with a gradient, or with none in the mask;
            autocast is fp16; a parameter that the step needs was frozen.
    """
    mask = perturbation.mask
    frozen = [name for name, p, *_ in _needed(perturbation) if not p.requires_grad]
    if frozen:
        raise ConfigError(
            f"{frozen[0]} was frozen after its mask was made: make the mask again, without it"
        )
    both = perturbation.batchnorm == "both"
    # With the radius over everything the first backward pass uses up the whole graph.
    kept_stages = 0 if _over_all(perturbation) else mask.untouched
    before = Saved(mask.norm_buffers)
    after_first: Saved | None = None
    weights: Saved | None = None
    try:
        with reuse(mask.model, kept_stages, mask.norms, statistics=both) as memory:
            loss = _loss(closure, mask)
            eps, grads = ascent(perturbation, loss)
            # A loss that lives through the second pass keeps the ascent graph alive with it.
            first, loss = loss.detach(), None
            with torch.no_grad():
                after_first = None if both else Saved(mask.norm_buffers)
                weights = Saved(
                    [e.parameter for e in mask.entries], [e.index for e in mask.entries]
                )
                weights.add(eps)
            if on_eps is not None:
                on_eps(eps)
            mask.observe(grads)  # last: it may choose other coordinates for the next step
            del eps, grads
            if memory is not None:
                memory.replay()
            torch.clear_autocast_cache()  # or an outer autocast would reuse casts of old weights
            yield first
    except BaseException:
        with torch.no_grad():
            before.restore()
        raise
    else:
        with torch.no_grad():
            if after_first is not None:
                after_first.restore()
    finally:
        if weights is not None:
            with torch.no_grad():
                weights.restore()
            torch.clear_autocast_cache()


def sam_step(
    closure: Closure,
    optimizer: Optimizer,
    perturbation: Perturbation | None,
    *,
    epoch: int | None = None,
    on_eps: OnEps | None = None,
) -> Tensor:
    """One training step: two passes, one step of the base optimizer.

    Zeroes the optimizer's gradients before the descent pass. Schedulers, clipping (a step
    pre-hook), parameter groups and `state_dict` stay the optimizer's own. Under
    `DistributedDataParallel` leave `static_graph` off: it takes the first pass, whose gradients it
    never sees, for a whole one, and its replicas drift apart.

    Args:
        closure: forward pass and loss, a scalar tensor; called twice.
        optimizer: any `torch.optim.Optimizer` whose step needs no closure (LBFGS does), unwrapped.
        perturbation: the ascent step; None is a plain step of the optimizer.
        epoch: from 0; outside the perturbation's active epochs the step is a plain one. None,
            for a loop without epochs, is always active.
        on_eps: as in `perturbed`.

    Returns:
        The loss at the unperturbed weights, detached.

    Raises:
        ConfigError: as `perturbed`, or the optimizer is LBFGS.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigError(
            "LBFGS runs the closure as often as it likes, which a step of two passes cannot: use "
            "another optimizer"
        )
    if perturbation is None or not perturbation.active(epoch):
        torch.clear_autocast_cache()  # as the perturbed step does
        optimizer.zero_grad()
        # Refused from the first epoch on, not when the perturbed ones begin.
        loss = _loss(closure, perturbation and perturbation.mask)
        loss.backward()
        first = loss.detach()
    else:
        with perturbed(closure, perturbation, on_eps) as first:
            optimizer.zero_grad()
            _loss(closure).backward()
    optimizer.step()
    return first
