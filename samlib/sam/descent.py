"""What gradient the base optimizer gets, of what both passes found."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from samlib.errors import ConfigError, choose
from samlib.sam.geometry import Tensors
from samlib.sam.masks.base import Entry, Mask
from samlib.sam.perturbation import Perturbation
from samlib.sam.restore import Saved
from samlib.sam.state import Stateful, Where, dot, grads_on, length

_FLOOR = 1e-16


class Descent(Stateful):
    """The gradient at w + eps as it is: SAM.

    Attributes:
        compares: whether it needs the gradient, or the losses, of the first pass.
        over: "all" needs the first pass's gradient of every parameter, so that a mask no longer
            makes that pass cheaper; "mask" changes the descent's gradient on the mask alone.
        per_example: whether the closure returns the loss of each example.
        own_step: whether it is a whole step, called in place of `sam_step`'s.
        reads_grad: whether it reads `.grad`, which the optimizers must therefore drop.
    """

    compares: ClassVar[bool] = False
    per_example: ClassVar[bool] = False
    own_step: ClassVar[bool] = False
    reads_grad: ClassVar[bool] = False
    over: Literal["all", "mask"] = "mask"

    def check(self, perturbation: Perturbation) -> None:
        """Raise a ConfigError for a perturbation that this cannot descend on."""
        source = perturbation.source
        if self.compares and not source.own_pass:
            raise ConfigError(
                f"descent {self.name} compares with the first pass, which source {source.name} "
                "does without"
            )

    @property
    def keeps_gradient(self) -> bool:
        """Whether the first pass's gradient becomes part of what is descended."""
        return self.compares and not self.per_example

    def reads(self, perturbation: Perturbation) -> Iterator[tuple[Stateful, Where]]:
        """Which parts read `.grad`, and over which coordinates."""
        if self.reads_grad:
            yield self, self.where(perturbation.mask)
        if perturbation.source.reads_grad:
            yield perturbation.source, perturbation.mask.entries

    @property
    def everything(self) -> bool:
        """Whether the first pass must take every parameter's gradient."""
        return self.over == "all"

    def step(self, closure, optimizers, perturbation, on_ascent, backward) -> Tensor:
        """The whole step, of a descent that has its own; the arguments are `sam_step`'s."""
        raise NotImplementedError

    def where(self, mask: Mask) -> Where:
        """The coordinates whose gradient it changes."""
        return mask.trainable if self.everything else mask.entries

    def first(self, losses: Any) -> Any:
        """The loss of the first pass, of what the closure returned."""
        return losses

    def second(self, losses: Any) -> Any:
        """The loss of the pass at w + eps."""
        return losses

    def plain(self, losses: Any) -> Any:
        """The loss of a step that is not perturbed."""
        return losses

    def saw(self, mask: Mask, gradient: Sequence[Tensor]) -> None:
        """Called with the first pass's gradient over `where`."""

    def combine(self, mask: Mask) -> None:
        """Called when `.grad` holds the gradient at w + eps: make it what descent shall get."""

    def reuse(self, mask: Mask) -> None:
        """Called when `.grad` holds that of a step which `when` left unperturbed."""


class Compares(Descent):
    """A descent that needs g, the first pass's gradient of the loss that is descended."""

    compares = reads_grad = True
    _g: Sequence[Tensor] | None = None
    _over: Where = ()
    _moved: Sequence[Entry] = ()

    def __init__(self, alpha: float, over: Literal["all", "mask"]):
        choose("over", over, ("all", "mask"))
        self.alpha, self.over = alpha, over

    def check(self, perturbation):
        """As above, and the first pass must not be another loss's."""
        super().check(perturbation)
        if perturbation.source.other_loss:
            raise ConfigError(
                f"descent {self.name} needs the loss's own gradient, source "
                f"{perturbation.source.name} ascends another's"
            )

    def saw(self, mask, gradient):
        """Keep it for the length of the step, and where it is: the mask may choose anew in it."""
        self._g, self._over, self._moved = gradient, self.where(mask), mask.entries


class Subtract(Compares):
    """GSAM (Zhuang et al., 2022): u = g~ - alpha (g - (g.g~) / ||g~||^2 g~).

    Takes away what of the gradient at w is orthogonal to that at w + eps; u.g~ = ||g~||^2.
    """

    def __init__(self, alpha: float = 0.4, over: Literal["all", "mask"] = "all"):
        super().__init__(alpha, over)

    def combine(self, mask):
        """u."""
        there, g, self._g = grads_on(self._over), self._g, None
        aside = across(g, there)
        add_to_grads(self._over, torch._foreach_mul(aside, -self.alpha))


class Reuse(Compares):
    """LookSAM (Liu et al., 2022), with `Every(k)`: what one step found serves k - 1 others.

    v = unit(g~ - (g~.g) / ||g||^2 g) of a perturbed step;  u = g + alpha ||g|| v in the others
    """

    ready = False
    tensors = ("v",)

    def __init__(self, alpha: float = 0.7, over: Literal["all", "mask"] = "all"):
        super().__init__(alpha, over)

    def combine(self, mask):
        """v; g~ stays as it is."""
        g, self._g = self._g, None
        aside = across(grads_on(self._over), g)
        unit = torch._foreach_div(aside, length(aside) + _FLOOR)
        torch._foreach_copy_(self.held(self._over, "v"), unit)
        self.ready = True

    def reuse(self, mask):
        """u; g before the first perturbed step."""
        where = self.where(mask)
        v, size = self.held(where, "v"), length(grads_on(where))
        add_to_grads(where, torch._foreach_mul(v, self.alpha * size))


class Hardest(Descent):
    """ESAM's sharpness-sensitive data selection (Du et al., 2022).

    Descends on the int(gamma n) examples of a batch whose loss rose most from w to w + eps. The
    closure returns (n,) losses, whose mean is ascended. The authors run a third forward pass on
    those examples alone, and lose the last one to a strict comparison.

    Args:
        gamma: the share of the examples, in (0, 1].
    """

    compares = per_example = True

    def __init__(self, gamma: float = 0.5):
        if not 0 < gamma <= 1:
            raise ConfigError(f"gamma must be in (0, 1], not {gamma!r}")
        self.gamma = gamma
        self._before: Tensor | None = None

    def first(self, losses):
        """Their mean."""
        self._before = _per_example(losses).detach()
        return losses.mean()

    def second(self, losses):
        """The mean over those chosen."""
        count = int(self.gamma * len(_per_example(losses)))
        if not count:
            raise ConfigError(f"gamma {self.gamma} of {len(losses)} examples selects none of them")
        rise, self._before = losses.detach() - self._before, None
        return losses[rise.topk(count).indices].mean()

    def plain(self, losses):
        """Their mean."""
        return _per_example(losses).mean()


def _per_example(losses: Any) -> Tensor:
    if not (isinstance(losses, Tensor) and losses.ndim == 1):
        got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ConfigError(f"descent Hardest needs a closure that returns (n,) losses, not {got}")
    return losses


def across(a: Tensors, b: Tensors) -> Tensors:
    """What of a is orthogonal to b: a - (a.b) / ||b||^2 b."""
    share = dot(a, b) / (dot(b, b) + _FLOOR)
    return torch._foreach_sub(a, torch._foreach_mul(b, share))


def add_to_grads(where: Where, change: Sequence[Tensor]) -> None:
    """Add to `.grad`, which a parameter that the loss does not reach has none of."""
    found = [(p.grad, i[0] if i else None, c) for (_, p, *i), c in zip(where, change, strict=True)]
    whole = [(g, c) for g, i, c in found if g is not None and i is None]
    if whole:
        torch._foreach_add_(*map(list, zip(*whole, strict=True)))
    for g, i, c in found:
        if g is not None and i is not None:
            Saved([g], [i]).add([c])
