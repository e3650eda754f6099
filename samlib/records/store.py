"""Run records on disk: one JSON file per run, written once, whole, and never edited.

`results/<profile>/runs/<run_id>.json` holds what `one_run.train` returns and describes, the
format's number and a checksum of everything else. A truncated or edited file is recognised and set
aside, and its run is trained again.
"""

import gc
import hashlib
import json
import os
import statistics
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sys import intern

from samlib.errors import SamlibError
from samlib.files import as_disk_error, write_atomically

FORMAT = 1
Records = dict[str, dict]  # by run id


class RecordError(SamlibError):
    """A damaged record; the message names the file and the fault."""


class FormatError(RecordError):
    """A record of another format, as is its whole folder; the folder is left alone."""


class UnreadableError(RecordError):
    """A record or folder without read permission: possibly whole, and left alone."""


def unreadable(path: Path, error: OSError) -> UnreadableError:
    """The error for a file or folder that is there and cannot be read."""
    return UnreadableError(
        f"cannot read {path}: {error.strerror or error}; make it readable, or move it away to have "
        "its contents made again"
    )


def _canonical(record: dict) -> str:
    return json.dumps(record, sort_keys=True, allow_nan=False, separators=(",", ":"))


def _checksum(record: dict) -> str:
    rest = {key: value for key, value in record.items() if key != "checksum"}
    return hashlib.sha256(_canonical(rest).encode()).hexdigest()


def _intact(record: dict) -> bool:
    try:
        return record.get("checksum") == _checksum(record)
    except (ValueError, RecursionError):  # a NaN or a depth that no record is written with
        return False


def write(folder: Path, result: dict) -> Path:
    """Write the record of a run; returns its path.

    Raises:
        DiskError: the disk is full or the folder not writable.
    """
    path = folder / f"{result['run_id']}.json"
    write_atomically(path, encode(result))
    return path


def encode(result: dict) -> bytes:
    """Content of a record's file."""
    record = {"format": FORMAT, **result}
    record["checksum"] = _checksum(record)
    # One line per top-level field: small diffs without a line per number.
    lines = [f"{json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in record.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _interned(pairs: list[tuple]) -> dict:
    """An object of a record; strings repeated in thousands of records are in memory once."""
    return {intern(key): intern(v) if type(v) is str else v for key, v in pairs}


def read_one(path: str | Path) -> dict:
    """Read and check one record.

    Raises:
        RecordError: truncated, edited or misnamed.
        FormatError: written by another format.
        UnreadableError: no permission to read the file, or the disk fails.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_bytes(), object_pairs_hook=_interned)
        claimed = record["format"]
    except (ValueError, KeyError, TypeError, RecursionError, IsADirectoryError):
        raise RecordError(f"{path} is not a whole record") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    # A record of ours in which this number alone was damaged is damaged, not another format.
    if claimed != FORMAT and not _intact(record | {"format": FORMAT}):
        raise FormatError(
            f"{path} has record format {claimed!r}, this version reads {FORMAT}: regenerate the "
            "results with `make reproduce`, or read them with the version that wrote them"
        )
    if not _intact(record):
        raise RecordError(f"{path} was changed after it was written")
    if record.get("run_id") != path.stem:
        raise RecordError(f"{path} is not named as its run, {record.get('run_id')}")
    return record


def files(folder: Path) -> list[Path]:
    """The record files of a folder in order of their names; none if the folder is missing.

    Raises:
        UnreadableError: no permission to list the folder, on which `Path.glob` is silent.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(folder, error) from error
    return sorted(folder / name for name in names if name.endswith(".json"))


def read(folder: str | Path, *, set_aside: bool = False) -> Records:
    """Every good record of a folder by run id.

    A missing folder has no records, as before a profile's first run. A misspelt name therefore
    gives {}; `results.load` with `needs` names missing runs and their folder.

    Args:
        folder: a `runs` folder.
        set_aside: move damaged files to `set_aside` of the profile, so that their runs are trained
            again; else damaged files are left out. A warning names them in both cases.

    Raises:
        FormatError: the folder was made by another record format.
        UnreadableError: the folder or a record cannot be read.
        DiskError: a damaged file cannot be moved.
    """
    folder = Path(folder)
    records: Records = {}
    with uncollected():
        for path in files(folder):
            try:
                record = read_one(path)
            except FileNotFoundError:  # moved since the folder was listed
                continue
            except (FormatError, UnreadableError):
                raise
            except RecordError as error:
                note = "its run counts as missing"
                if set_aside:
                    aside = _aside(folder) / path.name
                    with as_disk_error(aside):
                        aside.parent.mkdir(parents=True, exist_ok=True)
                        path.replace(aside)
                    note = f"moved to {aside}, its run will be done again"
                warnings.warn(f"{error}; {note}", stacklevel=2)
                continue
            records[record["run_id"]] = record
    return records


def _aside(folder: Path) -> Path:
    """Where damaged files of a folder go: `set_aside` of the profile, which git ignores."""
    if folder.parent.name == "measures":  # of one run they all have its name
        return folder.parent.parent / "set_aside" / folder.name
    return folder.parent / "set_aside"


def seconds(record: dict) -> float:
    """How long a run takes that nothing disturbs: its median epoch for each, and what is around.

    The wall time of its record is another one where the run was paused, or continued by another
    process. A measurement has no epochs and takes its wall time.
    """
    wall, epochs = record["times"]["wall"], record["times"].get("epochs")
    if not epochs:
        return wall
    return statistics.median(epochs) * len(epochs) + max(0.0, wall - sum(epochs))


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection inside the block.

    The collector would scan the growing records again and again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
