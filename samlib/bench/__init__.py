"""What is timed, kind by kind: `python -m samlib bench KIND`.

A kind is a module here: `Setting`, a frozen dataclass whose fields are its flags; `run`, which
measures and writes one record to `<results>/bench`; `table`, the record as text.
"""

from importlib import import_module
from types import ModuleType

from samlib.errors import choose

__all__ = ["KINDS", "growth", "kind", "memory", "networks", "plain_loop", "step", "timing"]

# By kind, what it measures, as the command line says it.
KINDS = {
    "gpu": "all that a GPU is asked: steps and epochs of five networks, in one go",
    "step": "SAM's step against its floor and a peer",
    "family": "a step of every member of the family, with only norm",
    "epoch": "a training epoch against a peer's loop, and where its time goes",
    "augment": "augmentation against Pillow, and its share of an epoch",
    "networks": "a step of every network of the profiles",
    "packing": "runs per hour by workers that share one device",
    "growth": "runs per hour by workers, reading of records",
}


def kind(name: str) -> ModuleType:
    """The module of a kind.

    Raises:
        ConfigError: an unknown name; the message lists the valid ones.
    """
    return import_module(f"samlib.bench.{choose('bench', name, KINDS)}")
