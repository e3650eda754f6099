"""Along what the ascent looks; a source of your own is a class of `base.Source`."""

from samlib.sam.source.base import Source
from samlib.sam.source.eigen import Eigen
from samlib.sam.source.one_pass import Drift, Last, Momentum
from samlib.sam.source.this_step import (
    Gradient,
    LastClean,
    Mean,
    OtherLoss,
    Residual,
    obf,
)

__all__ = [
    "Drift",
    "Eigen",
    "Gradient",
    "Last",
    "LastClean",
    "Mean",
    "Momentum",
    "OtherLoss",
    "Residual",
    "Source",
    "obf",
]
