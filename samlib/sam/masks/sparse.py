"""Masks of single coordinates that can change while training, and the random one.

Each draws from a generator of its own, so that it never shifts the batches or the weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from samlib.errors import ConfigError
from samlib.sam.masks.base import Entry, Mask, Sample, refuse_half, trainable


def keep_count(total: int, sparsity: float) -> int:
    """Coordinates kept at a sparsity in [0, 1): int(total * (1 - sparsity)), at least one.

    Raises:
        ConfigError: a sparsity outside [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise ConfigError(f"sparsity must be in [0, 1), not {sparsity!r}")
    # The product is rounded first: 1 - 0.9 is not 0.1 in binary.
    return max(1, int(round(total * (1 - sparsity), 6)))


class SparseMask(Mask):
    """A mask of single coordinates that can be replaced while training.

    Args:
        model: the network.
        flat: selected positions (int64) in the concatenation of all trainable parameters.
        kind: name used in `repr` and records.
        seed: of the mask's own generator.
    """

    def __init__(self, model: nn.Module, flat: Tensor, kind: str, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        super().__init__(model, _entries(model, flat), kind)
        self.untouched = 0  # the next choice may lie anywhere
        refuse_half(p for _, p in self.trainable)

    @property
    def relies_on(self) -> Sequence[tuple]:
        """All that can be selected: positions count through them."""
        return self.trainable

    def would_select(self, parameter: nn.Parameter) -> bool:
        """True: the next choice may hold any trainable coordinate."""
        return True

    @property
    def flat(self) -> Tensor:
        """Selected positions in the concatenation of all trainable parameters, ascending."""
        chosen, found, start = {e.name: e.index for e in self.entries}, [], 0
        for name, p in self.trainable:
            if (index := chosen.get(name)) is not None:
                found.append(index.cpu() + start)
            start += p.numel()
        return torch.cat(found)

    def select(self, flat: Tensor) -> None:
        """Replace the selected coordinates."""
        self.entries = _entries(self.model, flat)

    def state_dict(self) -> dict:
        """Selected positions and the generator."""
        return {"flat": self.flat, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict`."""
        self.select(state["flat"])
        self.generator.set_state(state["generator"].cpu())


def _entries(model: nn.Module, flat: Tensor) -> tuple[Entry, ...]:
    flat = flat.cpu().sort().values
    parameters = trainable(model)
    ends = torch.tensor([p.numel() for _, p in parameters]).cumsum(0)
    cuts = torch.searchsorted(flat, ends).tolist()
    entries, begin, start = [], 0, 0
    for (name, p), cut, end in zip(parameters, cuts, ends.tolist(), strict=True):
        if cut > begin:
            entries.append(Entry(name, p, (flat[begin:cut] - start).to(p.device)))
        begin, start = cut, end
    return tuple(entries)


class _Random(SparseMask):
    def __init__(self, model: nn.Module, count: int, seed: int, redraw: bool):
        super().__init__(model, torch.arange(1), "random", seed)
        self._count, self._redraw = count, redraw
        self._draw()

    def _draw(self) -> None:
        self.select(torch.randperm(self.total, generator=self.generator)[: self._count])

    def begin_epoch(self, epoch: int, sample: Sample) -> None:
        """Draw anew, from the second epoch on, if asked to."""
        if self._redraw and epoch > 0:
            self._draw()


def random(
    model: nn.Module,
    *,
    count: int | None = None,
    sparsity: float | None = None,
    seed: int = 0,
    redraw: bool = False,
) -> SparseMask:
    """Coordinates drawn uniformly without replacement over all trainable parameters.

    Args:
        model: the network.
        count, sparsity: how many; exactly one of the two.
        seed: of the draw.
        redraw: draw anew before every epoch instead of once per run.

    Raises:
        ConfigError: not exactly one size, or one out of range.
    """
    total = sum(p.numel() for _, p in trainable(model))
    if sparsity is not None and count is None:
        count = keep_count(total, sparsity)
    elif count is None or sparsity is not None:
        raise ConfigError("random takes either count or sparsity")
    if not 1 <= count <= total:
        raise ConfigError(f"count must be 1 to {total}, not {count}")
    return _Random(model, count, seed, redraw)
