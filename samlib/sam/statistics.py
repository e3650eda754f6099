"""Which passes of a step the norm layers' running statistics follow."""

import torch

from samlib.sam.masks.base import Mask
from samlib.sam.restore import Saved


class Buffers:
    """The norm layers' running statistics in one step: a block in which both passes run.

    After the block they are as both passes left them, or as the first one did if `keep` was called
    between the two; after an exception as before it.
    """

    def __init__(self, mask: Mask):
        self._mask = mask

    def __enter__(self) -> "Buffers":
        self._before = Saved(self._mask.norm_buffers)
        self._kept: Saved | None = None
        return self

    def keep(self) -> None:
        """Have the block end with what the buffers hold now."""
        with torch.no_grad():
            self._kept = Saved(self._mask.norm_buffers)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        back = self._kept if kind is None else self._before
        if back is not None:
            with torch.no_grad():
                back.restore()
