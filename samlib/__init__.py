"""samlib: SAM, its variants and its masks as a step around an untouched optimizer.

The public face; the study's own machinery (runs, records, tables) is imported by module.
"""

from . import geometry, masks, sparse_masks, ssam
from .errors import ConfigError, DataMissing, RecordsMissing, SamlibError
from .sam import Perturbation, perturbed, sam_step

__all__ = [
    "ConfigError",
    "DataMissing",
    "Perturbation",
    "RecordsMissing",
    "SamlibError",
    "geometry",
    "masks",
    "perturbed",
    "sam_step",
    "sparse_masks",
    "ssam",
]
__version__ = "0.1.0"
