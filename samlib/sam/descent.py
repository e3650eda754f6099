"""What gradient the base optimizer gets, of what both passes found."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from samlib.errors import ConfigError, choose, within
from samlib.sam.geometry import FLOOR, Tensors
from samlib.sam.masks.base import Entry, Mask
from samlib.sam.perturbation import Perturbation
from samlib.sam.restore import Saved
from samlib.sam.state import Stateful, Where, dot, grads_on, index_of, length, unit

if TYPE_CHECKING:
    from samlib.sam.closure import Closure
    from samlib.sam.step import Backward, OnAscent


class Descent(Stateful):
    """The gradient at w + eps as it is: SAM.

    Attributes:
        keeps_gradient: whether the first pass's gradient becomes part of what is descended.
        per_example: whether the closure returns the loss of each example, for both passes.
        own_step: whether it is a whole step, called in place of `sam_step`'s.
        over: "all" needs the first pass's gradient of every parameter, so that a mask no longer
            makes that pass cheaper; "mask" changes the descent's gradient on the mask alone.
    """

    keeps_gradient: ClassVar[bool] = False
    per_example: ClassVar[bool] = False
    own_step: ClassVar[bool] = False
    over: Literal["all", "mask"] = "mask"

    def check(self, perturbation: Perturbation) -> None:
        """Raise a ConfigError for a perturbation that this cannot descend on."""
        source = perturbation.source
        if (self.keeps_gradient or self.per_example) and not source.own_pass:
            raise ConfigError(
                f"descent {self.name} compares with the first pass, which source {source.name} "
                "does without"
            )

    def reads(self, perturbation: Perturbation) -> Iterator[tuple[Stateful, Where]]:
        """Which parts read `.grad`, which optimizers must therefore drop, and over what."""
        if self.keeps_gradient:
            yield self, self.where(perturbation.mask)
        if perturbation.source.reads_grad:
            yield perturbation.source, perturbation.mask.entries

    @property
    def everything(self) -> bool:
        """Whether the first pass must take every parameter's gradient."""
        return self.over == "all"

    def step(
        self,
        closure: "Closure",
        optimizers: Sequence[Optimizer],
        perturbation: Perturbation,
        on_ascent: "OnAscent | None",
        backward: "Backward",
    ) -> Tensor:
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

    def saw(self, mask: Mask, gradient: Tensors) -> None:
        """Called with the first pass's gradient over `where`."""

    def combine(self, mask: Mask) -> None:
        """Called when `.grad` holds the gradient at w + eps: make it what descent shall get."""

    def reuse(self, mask: Mask) -> None:
        """Called when `.grad` holds that of a step which `when` left unperturbed."""


class Compares(Descent):
    """A descent that needs g, the first pass's gradient of the loss that is descended.

    Args:
        alpha: factor of what g adds or takes away; None is the authors' value.
        over: as of every descent.
    """

    keeps_gradient = True
    alpha: float = 0.0
    _g: Tensors | None = None
    _over: Where = ()
    _moved: Sequence[Entry] = ()

    def __init__(self, alpha: float | None = None, over: Literal["all", "mask"] = "all"):
        if alpha is not None:
            self.alpha = within("alpha", alpha, "(-inf, inf)")
        choose("over", over, ("all", "mask"))
        self.over = over

    def check(self, perturbation: Perturbation) -> None:
        """Refuse a source without a first pass, or whose first pass is another loss's."""
        super().check(perturbation)
        if perturbation.source.other_loss:
            raise ConfigError(
                f"descent {self.name} needs the loss's own gradient, source "
                f"{perturbation.source.name} ascends another's"
            )

    def saw(self, mask: Mask, gradient: Tensors) -> None:
        """Keep the gradient for the step, and where it is: the mask may choose anew in between."""
        self._g, self._over, self._moved = gradient, self.where(mask), mask.entries


class Subtract(Compares):
    """GSAM (Zhuang et al., 2022): u = g~ - alpha (g - (g.g~) / ||g~||^2 g~).

    Takes away what of the gradient at w is orthogonal to that at w + eps; u.g~ = ||g~||^2.
    """

    alpha = 0.4

    def combine(self, mask: Mask) -> None:
        """Turn g~ into u."""
        there, g, self._g = grads_on(self._over), self._g, None
        assert g is not None, "the first pass was seen"
        aside = across(g, there)
        add_to_grads(self._over, torch._foreach_mul(aside, -self.alpha))


class Reuse(Compares):
    """LookSAM (Liu et al., 2022), with `Every(k)`: what one step found serves k - 1 others.

    v = unit(g~ - (g~.g) / ||g||^2 g) of a perturbed step;  u = g + alpha ||g|| v in the others
    """

    ready = False
    tensors = ("v",)
    alpha = 0.7

    def combine(self, mask: Mask) -> None:
        """Keep v; g~ stays as it is."""
        g, self._g = self._g, None
        assert g is not None, "the first pass was seen"
        v = unit(across(grads_on(self._over), g))
        torch._foreach_copy_(self.held(self._over, "v"), v)
        self.ready = True
        self.follow(self.where(mask))  # the mask may have chosen anew

    def reuse(self, mask: Mask) -> None:
        """Turn g into u; before the first perturbed step u is g."""
        where = self.where(mask)
        v, size = self.held(where, "v"), length(grads_on(where))
        add_to_grads(where, torch._foreach_mul(v, self.alpha * size))


class Hardest(Descent):
    """ESAM's sharpness-sensitive data selection (Du et al., 2022).

    Descends on the int(gamma n) examples of a batch whose loss rose most from w to w + eps. The
    closure returns (n,) losses, whose mean is ascended. The authors run a third forward pass on
    those examples alone, and lose the last one to a strict comparison. Of several workers each
    chooses among its own examples, int(gamma n) of its n: not the hardest of the whole batch.

    Args:
        gamma: the share of the examples, in (0, 1].
    """

    per_example = True

    def __init__(self, gamma: float = 0.5):
        self.gamma = within("gamma", gamma, "(0, 1]")
        self._before: Tensor | None = None

    def first(self, losses: Any) -> Tensor:
        """The mean over all examples, whose losses are kept."""
        self._before = _per_example(losses).detach()
        return losses.mean()

    def second(self, losses: Any) -> Tensor:
        """The mean over the examples whose loss rose most."""
        count = int(self.gamma * len(_per_example(losses)))
        if not count:
            raise ConfigError(f"gamma {self.gamma} of {len(losses)} examples selects none of them")
        rise, self._before = losses.detach() - self._before, None
        return losses[rise.topk(count).indices].mean()

    def plain(self, losses: Any) -> Tensor:
        """The mean over all examples."""
        return _per_example(losses).mean()


def _per_example(losses: Any) -> Tensor:
    if not (isinstance(losses, Tensor) and losses.ndim == 1):
        got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ConfigError(f"descent Hardest needs a closure that returns (n,) losses, not {got}")
    return losses


def across(a: Tensors, b: Tensors) -> Tensors:
    """What of a is orthogonal to b: a - (a.b) / ||b||^2 b."""
    share = dot(a, b) / (dot(b, b) + FLOOR)
    return torch._foreach_sub(a, torch._foreach_mul(b, share))


def add_to_grads(where: Where, change: Sequence[Tensor]) -> None:
    """Add to `.grad`, which a parameter that the loss does not reach has none of."""
    pairs = zip(where, change, strict=True)
    found = [(e[1].grad, index_of(e), c) for e, c in pairs if e[1].grad is not None]
    whole = [(g, c) for g, i, c in found if i is None]
    if whole:
        torch._foreach_add_(*map(list, zip(*whole, strict=True)))
    for g, i, c in found:
        if i is not None:
            Saved([g], [i]).add([c])
