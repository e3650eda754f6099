"""What a source is: along what the ascent looks, a direction on the mask in the gradient's place.

The geometry makes eps of a direction as it makes it of a gradient, so that masks and geometries
never learn where it came from. What a source remembers lives on the mask alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from samlib.sam.geometry import Tensors
from samlib.sam.masks.base import Mask
from samlib.sam.state import Stateful


class Source(Stateful):
    """Along what the ascent looks.

    A zero direction gives eps = 0. Before anything is remembered (`ready` is False), a source with
    nothing else to look along (`Last`, `LastClean`, `Momentum`, `Drift`) leaves the step to the
    base optimizer; `Mean`, `Residual` and `Eigen` have this step's gradient, and perturb.

    Attributes:
        own_pass: whether it needs this step's gradient on the mask, a pass of its own.
        shared: whether the trainer's data-parallel workers average that gradient, so that what is
            remembered of it is the same for all.
        other_loss: whether that gradient is another loss's than the one descended.
        reads_grad: whether it reads `.grad` after the optimizer's step.
        factor: times rho; -1 looks the other way.
    """

    own_pass: ClassVar[bool] = True
    shared: ClassVar[bool] = False
    other_loss: ClassVar[bool] = False
    reads_grad: ClassVar[bool] = False
    factor: float = 1.0

    def losses(self, returned: Any) -> tuple[Any, Any]:
        """Of what the closure returned: the loss to descend, the one to ascend if it is another."""
        return returned, None

    def plan(self, mask: Mask, perturb: bool) -> bool:
        """Called at w once before every step, outside of what is recorded: whether it refreshes.

        Args:
            mask: the coordinates that move.
            perturb: whether the step may be perturbed.
        """
        return False

    def refresh(
        self,
        closure: Callable[[], Tensor],
        mask: Mask,
        average: Callable[[Sequence[Tensor]], None] | None,
    ) -> None:
        """Called at w before the passes of a step that refreshes.

        Args:
            closure: forward pass and the loss that is ascended.
            mask: the coordinates that move.
            average: as of the perturbation.
        """

    def direction(
        self, mask: Mask, gradient: list[Tensor] | None, optimizers: Sequence[Optimizer]
    ) -> Tensors | None:
        """One tensor per entry of the mask, of its coordinates; None leaves the weights at w.

        Args:
            mask: the coordinates that move.
            gradient: this step's, per entry; None without a pass of its own.
            optimizers: of the step; empty where `perturbed` was not given one.
        """
        raise NotImplementedError

    def after_step(self, mask: Mask, refresh: bool) -> None:
        """Called after the optimizer's step, `.grad` still being what it stepped with."""
