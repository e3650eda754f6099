"""Logs of the jobs of a campaign, the jobs at work now, and the jobs that failed.

The files lie in `logs` of a results folder, out of git, for people to read: no record depends on
them. Nothing is flushed to disk, because a run can take a second, and a failed write is ignored.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from samlib.records import lock
from samlib.records.results_folder import ResultsFolder
from samlib.trainer.config import RunConfig

if TYPE_CHECKING:
    from samlib.trainer.loop import Trainer


_LINES, _WIDTH = 5, 160  # of a failed run's log, shown with its failure


class Journal:
    """The log of one job and, while the job runs, a note of its progress; a context manager.

    The log is appended to, so that it also shows attempts that ended with their worker. A note
    counts as long as its file is locked. The lock ends with the process, so that a note left
    behind by a crash does not count.

    Args:
        folder: results folder of the logs.
        run_id: name of the job.
        config: the run, or the run that is measured.
        device: device of the job.
    """

    def __init__(self, folder: ResultsFolder, run_id: str, config: RunConfig, device: str):
        self._folder, self._run_id, self._epochs = folder, run_id, config.epochs
        self._path = _running(folder) / f"{run_id}.json"
        self._note: BinaryIO | None = None
        self._state = {
            "run_id": run_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "device": device,
            "since": time.time(),
            "epoch": None,
            "epochs": config.epochs,
            "accuracy": None,
        }
        self._log = None
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line is there for `tail -f`, and after a kill.
            self._log = open(folder.log(run_id), "ab", buffering=0)  # noqa: SIM115
        self.stamp(
            f"{run_id}: {config.epochs} epochs on {device}, "
            f"process {os.getpid()} of {self._state['host']}"
        )
        self.say(json.dumps(config.to_dict()))

    def __enter__(self) -> "Journal":
        with contextlib.suppress(OSError):
            self._note = open(self._path, "wb", buffering=0)
            lock.hold(self._note)
            self._write_note()
        return self

    def __exit__(self, *exception) -> None:
        if self._note is not None:
            self._note.close()
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        if self._log is not None:
            self._log.close()

    def say(self, text: str) -> None:
        """Add lines to the log."""
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.write(f"{text.rstrip()}\n".encode())

    def stamp(self, text: str) -> None:
        """Add a line with the time to the log."""
        self.say(_stamped(text))

    def epoch(self, run: "Trainer") -> None:
        """Log an epoch; `train` calls this after every epoch."""
        if self._state["epoch"] is None and run.epoch > 1:
            self.say(f"continued after epoch {run.epoch - 1}, from a checkpoint")
        curves = {name: values[-1] for name, values in run.curves.items()}
        loss = curves["train_loss"]
        parts = ["loss not finite" if loss is None else f"loss {loss:.4f}"]
        for split in ("validation", "test"):
            if (accuracy := curves[f"{split}_accuracy"]) is not None:
                parts.append(f"{split} accuracy {accuracy:.2f} %")
        parts.append(f"{run.seconds[-1]:.2f} s")
        self.say(f"epoch {run.epoch}/{self._epochs}: {', '.join(parts)}")
        self._state["epoch"] = run.epoch
        if curves["test_accuracy"] is not None:
            self._state["accuracy"] = curves["test_accuracy"]
        self._write_note()

    def end(self, result: dict) -> None:
        """Log the end of a run, from the result of `train`."""
        if result["status"] == "diverged":
            text = f"diverged in epoch {result['diverged_epoch'] + 1}: loss or weights not finite"
        else:
            text = f"completed: test accuracy {result['test_accuracy']:.2f} %"
        self.stamp(f"{text}, {result['times']['wall']:.2f} s in all")

    def _write_note(self) -> None:
        if self._note is not None:
            with contextlib.suppress(OSError):
                lock.write_note(self._note, json.dumps(self._state).encode() + b"\n")


def begin(folder: ResultsFolder) -> None:
    """Remove the notes and the list of failures of an earlier command."""
    shutil.rmtree(_running(folder), ignore_errors=True)
    with contextlib.suppress(OSError):
        _failures(folder).unlink(missing_ok=True)


def running(folder: ResultsFolder) -> list[dict]:
    """Notes of the jobs that some process is at work on now."""
    found = []
    for path in sorted(_running(folder).glob("*.json")):
        content = lock.held(path)
        with contextlib.suppress(ValueError):  # caught while it was written
            if content is not None:
                found.append(json.loads(content.split(b"\n", 1)[0]))
    return found


def note_failure(folder: ResultsFolder, run_id: str, reason: str) -> None:
    """Note for other processes that a job failed in this command."""
    _append(_failures(folder), json.dumps({"run_id": run_id, "reason": reason}))


def failures(folder: ResultsFolder) -> dict[str, str]:
    """Reasons of failures in the current or last command, by job."""
    found = {}
    with contextlib.suppress(OSError):
        text = _failures(folder).read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # cut short by a crash
                failure = json.loads(line)
                found[failure["run_id"]] = failure["reason"]
    return found


def add(folder: ResultsFolder, run_id: str, text: str) -> None:
    """Add a line to the log of a job whose worker died."""
    _append(folder.log(run_id), _stamped(text))


def worker(folder: ResultsFolder, run_id: str) -> str | None:
    """The process of a job's last attempt, from its log; None without a log."""
    with contextlib.suppress(OSError):
        log = folder.log(run_id).read_text(encoding="utf-8", errors="replace")
        found = re.findall(r"epochs on .*, process (\d+ of .+)", log)
        return found[-1] if found else None
    return None


def failure_text(folder: ResultsFolder, run_id: str, reason: str) -> str:
    """A failure, with the last lines of the job's log and its path."""
    path = folder.log(run_id)
    try:
        last = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:]
    except OSError:
        return f"failed: {run_id}: {reason}"
    lines = [
        f"failed: {run_id}: {reason}",
        *(f"  | {line[:_WIDTH]}" for line in last),
        f"  log: {path}",
    ]
    return "\n".join(lines)


def _running(folder: ResultsFolder) -> Path:
    return folder.logs / "running"


def _failures(folder: ResultsFolder) -> Path:
    return folder.logs / "failed.jsonl"


def _append(path: Path, line: str) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as handle:
            handle.write(f"{line}\n")


def _stamped(text: str) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
