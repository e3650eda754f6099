"""Where a number comes from: versions, hardware, commit."""

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_HERE = Path(__file__).parent
_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scikit-learn",
    "scipy",
    "adversarial-robustness-toolbox",
)
# The rooms that decide what a run computes. A grid may gain a line, and reports may change, without
# them: which runs there are is told by their ids.
DECIDING = ("sam", "models", "data", "trainer")
# The room that, beside them, decides what is measured on final weights. Runs do not depend on it,
# so that a checkpoint outlives a change of it.
MEASURING = ("measures",)


def digest(rooms: Iterable[str], folder: Path = _HERE) -> str:
    """Digest of some rooms of this package, folders or files, as they are on disk now."""
    found = hashlib.sha256()
    for room in rooms:
        place = folder / room
        paths = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        for path in (p for p in paths if not p.name.startswith(".")):  # an editor's lock
            found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


# Taken when this module is imported: what is on disk later is not what this process runs.
_DIGESTS: dict[tuple[str, ...], str] = {rooms: digest(rooms) for rooms in (DECIDING, MEASURING)}


def source_digest(rooms: tuple[str, ...] = DECIDING) -> str:
    """Digest of `DECIDING` or of `MEASURING` in this process: equal digests ran equal code."""
    return _DIGESTS[rooms]


@functools.cache
def packages() -> dict[str, str | None]:
    """Versions of the packages that numbers depend on; None for one that is not installed."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def tf32() -> dict[str, bool]:
    """Whether a GPU may round float32 factors to TensorFloat-32, 10 bits of mantissa, as of now.

    PyTorch's default is yes in `convolutions` and no in matrix `products`.
    """
    cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
    try:
        return {"convolutions": cudnn.allow_tf32, "products": cublas.allow_tf32}
    except RuntimeError:  # set by the names of PyTorch 2.9, of which the older ones know nothing
        allowed = {"convolutions": cudnn.conv, "products": cublas}  # type: ignore[attr-defined]
        return {what: place.fp32_precision == "tf32" for what, place in allowed.items()}


def _git(*arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(_HERE), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpuinfo(key: str) -> str | None:
    """The first value of a key in Linux's description of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    found = (line.split(":", 1)[1].strip() for line in lines if line.startswith(key))
    return next(found, None)


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _bf16() -> str | None:
    """How the processor multiplies bfloat16: native or emulated; None where it cannot be told."""
    flags = _cpuinfo("flags")
    if flags is None:
        return None
    return "native" if {"avx512_bf16", "amx_bf16"} & {*flags.split()} else "emulated"


def _checkout(lists: tuple[tuple[str, ...], ...]) -> dict:
    """Commit, and whether the imported rooms differ from it."""
    status = _git("status", "--porcelain", "--", *(room for rooms in lists for room in rooms))
    # A package installed somewhere inside another project's checkout has none.
    if status is None or _git("ls-files", "--error-unmatch", "--", Path(__file__).name) is None:
        return {"commit": os.environ.get("SAMLIB_COMMIT"), "dirty": None}
    changed = bool(status) or any(map(_replaced, lists))
    return {"commit": _git("rev-parse", "HEAD"), "dirty": changed}


def _replaced(rooms: tuple[str, ...]) -> bool:
    try:
        return digest(rooms) != source_digest(rooms)
    except FileNotFoundError:
        return True


def provenance(device: str = "cpu", *, measuring: bool = False) -> dict:
    """Versions, hardware and commit of this process, JSON-ready; read once per process.

    Outside a git checkout `commit` is what the environment variable SAMLIB_COMMIT says, or None,
    and `dirty` None; it concerns the rooms in the digests that are given. On a GPU `tf32` is what
    the function of that name finds now.

    Args:
        device: what the record's numbers were computed on.
        measuring: they were measured on final weights, so that beside `source`, the digest of what
            decides a run, `measuring` is that of what decides a measurement.
    """
    return _read_once(device, measuring) | {"tf32": tf32() if device.startswith("cuda") else None}


@functools.cache
def place(device: str) -> dict[str, str | None]:
    """What decides how numbers are rounded: processor or GPU, and the release of PyTorch."""
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {"processor": _processor(), "gpu": gpu, "torch": packages()["torch"]}


@functools.cache
def _read_once(device: str, measuring: bool) -> dict:
    here = place(device)
    lists = {"source": DECIDING} | ({"measuring": MEASURING} if measuring else {})
    return {
        "python": platform.python_version(),
        "packages": packages(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": here["processor"],
        "bf16": _bf16(),
        "cores": os.cpu_count(),
        "gpu": here["gpu"],
        **_checkout(tuple(lists.values())),
        **{key: source_digest(rooms) for key, rooms in lists.items()},
    }
