"""What is timed, kind by kind: `python -m samlib bench KIND`.

A kind is a module here: `Setting`, a frozen dataclass whose fields are its flags; `measure`, which
returns a record; `table`, the record as text. `gpu` has a `run` of its own, which writes the
records of its parts as it goes.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from samlib.errors import choose
from samlib.records import store

__all__ = ["KINDS", "growth", "kind", "memory", "networks", "plain_loop", "run", "step", "timing"]

# By kind, what it measures, as the command line says it.
KINDS = {
    "gpu": "all that a GPU is asked: steps and epochs of four networks, in one go",
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


def run(kind: ModuleType, setting: object, results: Path) -> tuple[dict, Path]:
    """Measure by a kind's setting, and write the record to `<results>/bench`.

    Raises:
        ConfigError: the setting's device is not there.
        DiskError: the record cannot be written.
    """
    if hasattr(kind, "run"):
        return kind.run(setting, results)
    record = kind.measure(setting)
    return record, store.write(results / "bench", record)
