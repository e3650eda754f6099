"""Where a number comes from: versions, hardware, commit."""

import functools
import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

_HERE = Path(__file__).parent
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn")
# The modules that decide what a run computes and which runs there are; a test holds this list
# against what `train` and `profiles` import. Reports and prose may change without them.
DECIDING = (
    "augment",
    "autoaugment",
    "build",
    "config",
    "data",
    "datasets",
    "folders",
    "geometry",
    "graphs",
    "masks",
    "measures",
    "models",
    "prefix",
    "profiles",
    "run",
    "sam",
    "sparse_masks",
    "ssam",
    "study",
    "train",
)


def source_digest() -> str:
    """Digest of the modules that decide a run: equal digests ran equal code."""
    digest = hashlib.sha256()
    for name in DECIDING:
        digest.update(name.encode() + b"\0" + (_HERE / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(_HERE), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.cache
def provenance(device: str = "cpu") -> dict:
    """Versions, hardware and commit of this process, JSON-ready; read once per process.

    `commit` and `dirty` are None outside a git checkout; `dirty` concerns the modules that decide
    a run, as `source` does.
    """
    status = _git("status", "--porcelain", "--", *(f"{name}.py" for name in DECIDING))
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "source": source_digest(),
    }
