"""Checkpoints of a run: written whole, checksummed, the last good one kept, no code in them."""

import hashlib
import io
import pickle
import warnings
from pathlib import Path

import torch

from samlib.files import as_disk_error, write_atomically

_DIGEST = 64  # hexadecimal characters of a SHA-256 in front of the payload


def save(path: Path, state: dict) -> None:
    """Write a checkpoint; the previous one is kept, for when this one is damaged.

    Raises:
        DiskError: the disk is full or the folder not writable.
    """
    payload = _encoded(state)
    with as_disk_error(path):
        if path.exists():
            path.replace(_previous(path))
    write_atomically(path, payload)


def save_final(path: Path, state: dict) -> None:
    """Write final weights in place of older ones, which would be another run's.

    Raises:
        DiskError: the disk is full or the folder not writable.
    """
    write_atomically(path, _encoded(state))
    with as_disk_error(path):
        _previous(path).unlink(missing_ok=True)


def _encoded(state: dict) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    return hashlib.sha256(payload).hexdigest().encode() + payload


def load(path: Path) -> dict | None:
    """The newest checkpoint that is whole, or None; a damaged one is named in a warning.

    Tensors are loaded to the CPU, because the device of the writer may be absent.
    """
    for candidate in (path, _previous(path)):
        try:
            content = candidate.read_bytes()
        except FileNotFoundError:
            continue
        digest, payload = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(payload).hexdigest().encode() == digest:
            try:
                return torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
            except pickle.UnpicklingError:  # code; any other error is not the file's
                pass
        warnings.warn(f"{candidate} is damaged and is not used", stacklevel=2)
    return None


def discard(path: Path) -> None:
    """Remove a run's checkpoints, once its record is on disk."""
    path.unlink(missing_ok=True)
    _previous(path).unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_suffix(".previous")
