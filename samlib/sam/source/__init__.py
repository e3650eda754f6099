"""Along what the ascent looks; a source of your own is a class of `base.Source`."""

from samlib.sam.source.base import Source
from samlib.sam.source.eigen import Eigen
from samlib.sam.source.one_pass import Drift, Last, Momentum, Noise
from samlib.sam.source.this_step import (
    Downhill,
    Gradient,
    LastClean,
    Mean,
    OtherLoss,
    Residual,
    obf,
)

__all__ = [
    "Downhill",
    "Drift",
    "Eigen",
    "Gradient",
    "Last",
    "LastClean",
    "Mean",
    "Momentum",
    "Noise",
    "OtherLoss",
    "Residual",
    "Source",
    "obf",
]
