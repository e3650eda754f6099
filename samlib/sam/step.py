"""The step around an untouched base optimizer.

    w <- base(w, grad L(w + eps))

(Foret et al. 2021, algorithm 1; `ascent` makes eps, from a pass of its own or without one, and a
`descent` may change the gradient.) Weights come back bit for bit because they are copied back,
which subtracting eps would not give in floating point.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from samlib.errors import ConfigError
from samlib.sam import checks
from samlib.sam.ascent import TWICE, Ascent, ascent, gradients, masked, over_all
from samlib.sam.closure import Closure, losses
from samlib.sam.descent import Descent
from samlib.sam.optimizers import one_or_several, zero_grad
from samlib.sam.perturbation import Perturbation, Plan
from samlib.sam.restore import Saved
from samlib.sam.reuse import reuse
from samlib.sam.source.base import Source
from samlib.sam.statistics import Buffers
from samlib.sam.watch import Watch, versions

OnAscent = Callable[[Ascent], None]
Backward = Callable[[Tensor], None]
REPLACE = Descent()


@contextmanager
def _moved(
    perturbation: Perturbation,
    found: Ascent | None,
    on_ascent: OnAscent | None,
    before: list[int] | None = None,
) -> Iterator[None]:
    """The masked weights at w + eps inside the block, at w after it; None does not move them.

    With their versions `before` the first pass, a write of somebody else's to them is refused.
    """
    if found is None:
        yield
        return
    mask = perturbation.mask
    with torch.no_grad():
        weights = Saved([e.parameter for e in mask.entries], [e.index for e in mask.entries])
    watch = Watch(mask, before)
    try:
        with torch.no_grad():
            weights.add(found.eps)
        watch.begin()
        if on_ascent is not None:
            on_ascent(found)
        mask.observe(found.gradient)  # last: it may choose other coordinates for the next step
        perturbation.source.follow(mask.entries)
        del found
        torch.clear_autocast_cache()  # or an outer autocast would reuse casts of old weights
        yield
        watch.end()
    finally:
        with torch.no_grad():
            weights.restore()
        watch.close()
        torch.clear_autocast_cache()


class _First(NamedTuple):
    """The loss of the first pass; with its graph where `when` leaves the step unperturbed."""

    loss: Tensor | None = None
    plain: Tensor | None = None


@contextmanager
def _perturbed(
    closure: Closure,
    perturbation: Perturbation,
    plan: Plan,
    descent: Descent = REPLACE,
    on_ascent: OnAscent | None = None,
    optimizers: Sequence[Optimizer] = (),
) -> Iterator[_First]:
    """`perturbed`, for a step that is planned to be, with what only a whole step knows."""
    mask, source, everything = perturbation.mask, perturbation.source, descent.everything
    both = perturbation.batchnorm == "both"
    checks.weights(perturbation, everything)
    if descent.keeps_gradient or perturbation.when.looks:
        checks.one_for_all(perturbation, descent.name if descent.keeps_gradient else None)
    before = versions(mask) if source.own_pass else None
    with Buffers(mask) as buffers:
        if plan.refresh:
            ascended = lambda: losses(closure, perturbation, descent.plain)[1]  # noqa: E731
            source.refresh(ascended, mask, perturbation.average)
        if not source.own_pass:
            with _moved(perturbation, ascent(perturbation, None, optimizers), on_ascent):
                yield _First()
            return
        # A first backward pass over everything uses up the whole graph.
        kept_stages = 0 if everything or over_all(perturbation) else mask.untouched
        with reuse(mask.model, kept_stages, mask.norms, statistics=both) as memory:
            loss, up = losses(closure, perturbation, descent.first)
            g = gradients(perturbation, up, everything)
            if not both:
                buffers.keep()
            if plan.perturb is None and not perturbation.when.sees(masked(mask, g)):
                yield _First(loss.detach(), loss)
                return
            # A loss that lives through the second pass keeps the ascent graph alive with it.
            first = loss.detach()
            del loss, up
            found = ascent(perturbation, g, optimizers)
            assert found is not None, "a pass of its own gives a direction"
            descent.saw(mask, g.whole if everything else found.gradient)
            with _moved(perturbation, found, on_ascent, before):
                del found, g
                if memory is not None:
                    memory.replay()
                yield _First(first)


@contextmanager
def perturbed(
    closure: Closure,
    perturbation: Perturbation,
    on_ascent: OnAscent | None = None,
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    plan: Plan | None = None,
) -> Iterator[Tensor | None]:
    """Weights at w + eps inside the block, at w again after it, bit for bit.

    Runs the closure once, for the ascent gradient; what is computed inside the block (usually a
    second forward and a backward that accumulates into `.grad`) sees the perturbed weights.
    `sam_step` is this and an optimizer step; use it directly to accumulate over micro-batches. An
    exception in the closure or the block leaves weights and norm-layer buffers as they were before.

    A parameter of the mask that this loss does not use, as a batch may leave out a part of a
    model, is not moved; each is named once per mask in a warning, because one that is used may
    look the same (inside a reentrant `torch.utils.checkpoint`).

    Args:
        closure: forward pass and loss, a scalar tensor; called once, in the caller's mode.
        perturbation: what to do. In a step that its `when` leaves out, the block is at w.
        on_ascent: called at w + eps with the `Ascent`, for whoever measures it.
        optimizer: one or several, for a source or a radius that reads them.
        plan: from `perturbation.plan()`, which `perturbation.after_step` wants again after the
            optimizer's step; None asks, for a source that does not look back on that step.

    Yields:
        The unperturbed loss, detached; None where the source takes no pass of its own, so that the
        closure is not called.

    Raises:
        ConfigError: the closure's result is no scalar with a gradient, or with none in the mask;
            what `checks` refuses: fp16, parameters frozen, unfrozen or halved since the mask was
            made, weights that are changed inside the block (without a pass of the source's own, by
            an optimizer or through `p.data` alone), active epochs without an epoch, a source that
            looks back on the optimizer's step (`Last`) without a plan.
    """
    torch.clear_autocast_cache()  # an outer autocast still has casts of the last step's weights
    if plan is None:
        _refuse_to_look_back(perturbation.source)
        plan = perturbation.plan()
    if plan.perturb is False:
        with Buffers(perturbation.mask) as buffers:
            loss = None
            if perturbation.source.own_pass:
                loss = _unmoved(closure, perturbation, REPLACE).detach()
            if perturbation.batchnorm == "first":
                buffers.keep()
            yield loss
        return
    optimizers = () if optimizer is None else one_or_several(optimizer)
    with _perturbed(
        closure, perturbation, plan, on_ascent=on_ascent, optimizers=optimizers
    ) as first:
        yield first.loss


def sam_step(
    closure: Closure,
    optimizer: Optimizer | Sequence[Optimizer],
    perturbation: Perturbation | None,
    *,
    epoch: int | None = None,
    on_ascent: OnAscent | None = None,
    backward: Backward | None = None,
    descent: Descent = REPLACE,
    plan: Plan | None = None,
) -> Tensor:
    """One training step: an ascent, a pass at w + eps, one step of the base optimizer.

    Zeroes the optimizer's gradients before the descent pass. Schedulers, clipping (a step
    pre-hook), parameter groups and `state_dict` stay the optimizer's own.

    Args:
        closure: forward pass and loss, a scalar tensor; called twice, or once where the
            perturbation's source takes no pass of its own. A source or a descent may want it to
            return more.
        optimizer: any `torch.optim.Optimizer` whose step needs no closure (LBFGS does), unwrapped,
            or several that share the parameters among them.
        perturbation: the ascent step; None is a plain step of the optimizer.
        epoch: from 0; outside the perturbation's active epochs the step is a plain one. None is
            for a loop without epochs, and for a perturbation that is always active.
        on_ascent: as in `perturbed`; a descent that never moves the weights calls it at w.
        backward: called with the descent pass's loss in place of `loss.backward()`, as
            `accelerator.backward` or Lightning's `manual_backward`, inside whose forward pass of
            `DistributedDataParallel` it is needed.
        descent: what gradient the optimizer gets, from `samlib.sam.descent`; that at w + eps.
        plan: from `perturbation.plan(epoch)`, for a caller who must know it before; None asks.

    Returns:
        The loss at the unperturbed weights, detached; at the perturbed ones in a step of one pass,
        at the previewed ones in SAMPa's.

    Raises:
        ConfigError: as `perturbed`, no optimizer that steps by itself, or parts that exclude each
            other.
    """
    torch.clear_autocast_cache()  # an outer autocast still has casts of the last step's weights
    optimizers = one_or_several(optimizer)
    if backward is None:
        checks.outside_ddp(optimizers)
        backward = Tensor.backward
    if plan is None:
        plan = Plan() if perturbation is None else perturbation.plan(epoch)
    if perturbation is not None and plan.active:
        descent.check(perturbation)
        for part, where in descent.reads(perturbation):
            checks.stepped(part, where, optimizers)
        if descent.everything:
            checks.covered(f"descent {descent.name}", perturbation.mask, optimizers)
        if descent.own_step:
            return descent.step(closure, optimizers, perturbation, on_ascent, backward)
    if perturbation is None or plan.perturb is False:
        zero_grad(optimizers)
        loss = _unmoved(closure, perturbation, descent)
        _descend(backward, loss)
        if perturbation is not None and plan.active:
            descent.reuse(perturbation.mask)
        result = loss.detach()
    else:
        with _perturbed(closure, perturbation, plan, descent, on_ascent, optimizers) as first:
            zero_grad(optimizers)
            if first.plain is not None:
                _descend(backward, first.plain)
                descent.reuse(perturbation.mask)
            else:
                one_pass = first.loss is None
                loss = losses(closure, perturbation, descent.second, checked=one_pass)[0]
                _descend(backward, loss)
                descent.combine(perturbation.mask)
            result = loss.detach() if first.loss is None else first.loss
    for each in optimizers:
        each.step()
    if perturbation is not None:
        perturbation.after_step(plan)
    return result


def _refuse_to_look_back(source: Source) -> None:
    """Raise a ConfigError for a source that would never be told of a step."""
    if type(source).after_step is not Source.after_step:
        raise ConfigError(
            f"source {source.name} looks back on the optimizer's step, of which a block does not "
            "know: give perturbed plan=, made by perturbation.plan(), and call "
            "perturbation.after_step(plan) after the optimizer's step"
        )


def _unmoved(closure: Closure, perturbation: Perturbation | None, descent: Descent) -> Tensor:
    """The loss of a step that moves nothing, checked as that of one that does.

    So precision is refused from the first epoch on, not when the perturbed ones begin.
    """
    with nullcontext() if perturbation is None else Buffers(perturbation.mask):
        return losses(closure, perturbation, descent.plain)[0]


def _descend(backward: Backward, loss: Tensor) -> None:
    try:
        backward(loss)
    except RuntimeError as error:
        if TWICE not in str(error):
            raise
        raise ConfigError(
            "the closure returned a loss of an earlier forward pass: have it run the forward pass "
            "anew whenever it is called, and not call backward()"
        ) from error
