"""samlib: SAM, its variants and its masks as a step around an untouched optimizer.

The public face; the study's own machinery (runs, records, tables) is imported by module.
"""

from samlib.errors import ConfigError, DataMissing, RecordsMissing, SamlibError
from samlib.sam import Perturbation, geometry, masks, perturbed, sam_step

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
]
__version__ = "0.1.0"
