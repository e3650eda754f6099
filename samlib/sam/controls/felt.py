"""Who must feel the perturbed gradient: the mask's coordinates, or all the others."""

from typing import Literal

import torch

from samlib.errors import choose
from samlib.sam.descent import Compares, add_to_grads
from samlib.sam.masks.base import Mask
from samlib.sam.state import grads_on


class Felt(Compares):
    """u = g~ on one side of the mask and g, the gradient at w, on the other; ours, a control.

    Args:
        by: "mask": g~ on the mask alone; "others": g~ everywhere but on the mask, for which the
            first pass needs the mask's gradient only.
    """

    def __init__(self, by: Literal["mask", "others"]):
        self.by = choose("by", by, ("mask", "others"))
        super().__init__(over="all" if by == "mask" else "mask")

    def combine(self, mask: Mask) -> None:
        """Turn g~ into u."""
        g, self._g = self._g, None
        assert g is not None, "the first pass was seen"
        felt = [t.clone() for t in grads_on(self._moved)]
        add_to_grads(self._over, torch._foreach_sub(g, grads_on(self._over)))
        if self.by == "mask":
            add_to_grads(self._moved, torch._foreach_sub(felt, grads_on(self._moved)))
