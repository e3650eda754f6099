"""A member of the family, put together: its step, and what a checkpoint holds of all its parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from samlib.errors import ConfigError
from samlib.sam.closure import Closure
from samlib.sam.descent import Descent
from samlib.sam.perturbation import Perturbation, Plan
from samlib.sam.state import Stateful
from samlib.sam.step import sam_step


@dataclass(frozen=True)
class Stepper:
    """A member's step, ready to be called batch after batch as `sam_step` is.

    Attributes:
        name: of `family.MEMBERS`.
        perturbation: its ascent.
        descent: what it descends on.
        around: `sam_step`, or what is around it.
    """

    name: str
    perturbation: Perturbation
    descent: Descent = field(default_factory=Descent)
    around: Callable = sam_step

    def __call__(
        self, closure: Closure, optimizer: Optimizer | Sequence[Optimizer], **options: Any
    ) -> Tensor:
        """One step; arguments and result as of `sam_step`."""
        if type(self.descent) is not Descent:
            options["descent"] = self.descent
        return self.around(closure, optimizer, self.perturbation, **options)

    def plan(self, epoch: int | None = None) -> Plan:
        """What the coming step does."""
        return self.perturbation.plan(epoch)

    @property
    def recordable(self) -> bool:
        """Whether steps of one plan are the same kernels, so that a graph may replay them."""
        whole = self.around is sam_step and not self.descent.own_step
        return whole and not self.perturbation.when.looks

    @property
    def shared(self) -> bool:
        """Whether data-parallel workers must average the ascent's gradients to stay the same."""
        p = self.perturbation
        return p.source.shared or p.when.looks or self.descent.keeps_gradient

    def averaged(self, average: Callable) -> "Stepper":
        """The same with gradients of the ascent averaged among workers."""
        return replace(self, perturbation=replace(self.perturbation, average=average))

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {"descent": self.descent}
        return parts | ({"around": self.around} if isinstance(self.around, Stateful) else {})

    def state_dict(self) -> dict:
        """What a checkpoint must hold to continue."""
        parts = {kind: part.state_dict() for kind, part in self._parts().items()}
        return {"member": self.name, "perturbation": self.perturbation.state_dict()} | parts

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict`.

        Raises:
            ConfigError: the state is another member's.
        """
        if state["member"] != self.name:
            raise ConfigError(f"the state is of member {state['member']}, this one is {self.name}")
        self.perturbation.load_state_dict(state["perturbation"])
        for kind, part in self._parts().items():
            part.load_state_dict(state[kind])
        self.descent.follow(self.descent.where(self.perturbation.mask))
