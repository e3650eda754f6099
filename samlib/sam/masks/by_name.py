"""The masks that configurations name: how each is made of a network and a RunConfig.

A mask of your own is a function in a file of this folder and a line in `MASKS`.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from samlib.sam.masks.base import Mask
from samlib.sam.masks.sparse import random
from samlib.sam.masks.ssam import dynamic, fisher
from samlib.sam.masks.whole import (
    all_parameters,
    blocks,
    convolutions,
    no_norm,
    only_alpha,
    only_beta,
    only_gamma,
    only_norm,
    weights,
    without_alpha,
)


def sparsity_of(model: nn.Module, config: Any) -> float:
    """The configured sparsity; by default as many coordinates as the norm layers have."""
    return only_norm(model).sparsity if config.sparsity is None else config.sparsity


def _random(model: nn.Module, config: Any, redraw: bool = False) -> Mask:
    return random(model, sparsity=sparsity_of(model, config), seed=config.seed, redraw=redraw)


def _fisher(model: nn.Module, config: Any) -> Mask:
    return fisher(
        model,
        sparsity=sparsity_of(model, config),
        samples=config.mask_samples,
        every=config.mask_every,
    )


def _dynamic(model: nn.Module, config: Any) -> Mask:
    return dynamic(
        model,
        sparsity=sparsity_of(model, config),
        epochs=config.epochs,
        every=config.mask_every,
        seed=config.seed,
    )


def _blocks(stages: list[int], model: nn.Module, config: Any) -> Mask:
    return blocks(model, stages)


MASKS: dict[str, Callable[[nn.Module, Any], Mask]] = {
    "all": lambda model, config: all_parameters(model),
    "only_norm": lambda model, config: only_norm(model),
    "no_norm": lambda model, config: no_norm(model),
    "only_gamma": lambda model, config: only_gamma(model),
    "only_beta": lambda model, config: only_beta(model),
    "only_alpha": lambda model, config: only_alpha(model),
    "without_alpha": lambda model, config: without_alpha(model),
    "convolutions": lambda model, config: convolutions(model),
    "weights": lambda model, config: weights(model),
    "random": _random,
    "random_redrawn": functools.partial(_random, redraw=True),
    "fisher": _fisher,
    "dynamic": _dynamic,
}
MASKS |= {
    "blocks_" + "".join(map(str, stages)): partial(_blocks, stages)
    for stages in ([1], [2], [3], [1, 2], [1, 3], [2, 3], [1, 2, 3])
}
