"""Whether the masked weights stay where a block has put them, whoever else trains."""

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from samlib.errors import ConfigError
from samlib.sam.masks.base import Mask


class Watch:
    """Whether the masked weights stay at w + eps between `begin` and `end`, nested blocks aside.

    A write through `p.data` by other than an optimizer leaves no trace that could be read without
    waiting for the device; `p.data = other` does.

    Args:
        mask: whose weights.
        before: their `versions` before the closure ran, for what its forward pass itself writes
            (a norm that it keeps), which is nobody's update; None where no closure ran, so that
            such writes cannot be told from others and none is refused but an optimizer's.
    """

    _open: list["Watch"] = []  # noqa: RUF012 (of the process, as weights are)

    def __init__(self, mask: Mask, before: list[int] | None):
        self._weights = [(e.name, e.parameter) for e in mask.entries]
        self._ids = {id(p) for _, p in self._weights}
        self._before = before
        self._at: dict[int, int] = {}
        self._hook: RemovableHandle | None = None
        self._memory: list[int] = []

    def begin(self) -> None:
        """The weights have been moved, by one write each."""
        now = [p._version for _, p in self._weights]
        before = self._before or []
        pairs = zip(self._weights, before, now, strict=self._before is not None)
        self._at = {id(p): n for (_, p), b, n in pairs if n == b + 1}
        self._memory = [p.data_ptr() for _, p in self._weights]
        self._hook = register_optimizer_step_pre_hook(self._refuse_step)
        self._open.append(self)

    def _refuse_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        of_it = (p for group in optimizer.param_groups for p in group["params"])
        if any(id(p) in self._ids for p in of_it):
            raise ConfigError(
                f"{type(optimizer).__name__} steps inside the block, where weights stand at "
                "w + eps, and the block's end would undo it: step after the block, and leave out "
                "optimizers that step in the backward pass"
            )

    def end(self) -> None:
        """Raise a ConfigError if somebody wrote to the weights."""
        for (name, p), memory in zip(self._weights, self._memory, strict=True):
            if self._at.get(id(p), p._version) != p._version or p.data_ptr() != memory:
                raise ConfigError(
                    f"{name} was changed inside the block, where it stands at w + eps, and the "
                    "block's end undoes it: change weights after the block"
                )

    def close(self) -> None:
        """The weights are back: two writes that are no other block's affair."""
        if self._hook is not None:
            self._hook.remove()
            self._open.remove(self)
        for other in self._open:
            other._at |= {i: p._version for _, p in self._weights if (i := id(p)) in other._at}


def versions(mask: Mask) -> list[int]:
    """How often each masked weight has been written to."""
    return [e.parameter._version for e in mask.entries]
