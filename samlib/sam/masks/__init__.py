"""Which coordinates the ascent step may move: a mask is a set of them, made of a model."""

from samlib.sam.masks.base import Entry, Mask, refuse_half, trainable
from samlib.sam.masks.by_name import MASKS
from samlib.sam.masks.norms import norm_layers, norm_parameters, register_norm
from samlib.sam.masks.sparse import random
from samlib.sam.masks.ssam import dynamic, fisher
from samlib.sam.masks.whole import (
    all_parameters,
    blocks,
    convolutions,
    from_booleans,
    no_norm,
    only_alpha,
    only_beta,
    only_gamma,
    only_norm,
    weights,
    without_alpha,
)

__all__ = [
    "MASKS",
    "Entry",
    "Mask",
    "all_parameters",
    "blocks",
    "convolutions",
    "dynamic",
    "fisher",
    "from_booleans",
    "no_norm",
    "norm_layers",
    "norm_parameters",
    "only_alpha",
    "only_beta",
    "only_gamma",
    "only_norm",
    "random",
    "refuse_half",
    "register_norm",
    "trainable",
    "weights",
    "without_alpha",
]
