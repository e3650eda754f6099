"""One step of SAM around an optimizer of yours: what is perturbed, how far, and the step itself.

Needs torch alone; timm's norm types count where timm is installed.
"""

from samlib.sam import geometry, masks
from samlib.sam.perturbation import Perturbation
from samlib.sam.step import perturbed, sam_step

__all__ = [
    "Perturbation",
    "ascent",
    "checks",
    "family",
    "geometry",
    "masks",
    "perturbation",
    "perturbed",
    "restore",
    "reuse",
    "sam_step",
    "source",
    "step",
]
