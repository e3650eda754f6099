"""samlib: SAM, its variants and its masks as a step around an untouched optimizer.

The public face. The step, masks and geometries need torch alone; `RunConfig` and `train`, a whole
run, need the extra `study` and are imported when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from samlib.errors import ConfigError, DataMissing, RecordsMissing, SamlibError
from samlib.extras import ExtraMissing
from samlib.files import DiskError
from samlib.sam import Perturbation, geometry, masks, perturbed, sam_step

if TYPE_CHECKING:
    from samlib.trainer.config import RunConfig as RunConfig
    from samlib.trainer.one_run import train as train

# Without RunConfig and train: `from samlib import *` needs torch alone, too.
__all__ = [
    "ConfigError",
    "DataMissing",
    "DiskError",
    "ExtraMissing",
    "Perturbation",
    "RecordsMissing",
    "SamlibError",
    "geometry",
    "masks",
    "perturbed",
    "sam_step",
]
__version__ = "0.2.0"

_LATER = {"RunConfig": "samlib.trainer.config", "train": "samlib.trainer.one_run"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'samlib' has no attribute {name!r}")
    from samlib.extras import needed

    with needed(f"samlib.{name}"):
        return getattr(import_module(_LATER[name]), name)
