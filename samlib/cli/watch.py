"""A campaign seen live from another terminal: `python -m samlib status --watch`.

The view writes nothing. The records say what is done; `journal` says what runs and what failed.
"""

import shutil
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from samlib.campaign.backlog import Backlog
from samlib.campaign.progress import bar, clock
from samlib.cli import status
from samlib.errors import command
from samlib.records import journal, store
from samlib.records.results_folder import ResultsFolder, both
from samlib.records.store import Records
from samlib.report.missing import counted
from samlib.report.results import read
from samlib.study import plan
from samlib.study.cells import known_runs
from samlib.study.profile import Profile

_FAILURES = 10  # listed one by one


def watch(
    profile: Profile, results: Path, *, every: float = 2.0, stream: TextIO | None = None
) -> int:
    """Show a profile's campaign until it is complete and no process runs it; the exit status.

    Args:
        profile: whose campaign.
        results: folder of all profiles' results.
        every: seconds from one look to the next.
        stream: where to; a terminal is drawn over, anything else gets one text after the other.
    """
    look, screen = Look(profile, results), Screen(stream or sys.stdout)
    try:
        while True:
            lines, ended = look()
            screen.show(lines, whole=ended)
            if ended:
                return 0
            time.sleep(every)
    except KeyboardInterrupt:
        screen.write("samlib: no longer watching; the campaign is left alone\n")
        return 130


class Look:
    """One look after the other at the folder that is in use; see `__call__`."""

    def __init__(self, profile: Profile, results: Path):
        self._profile, self._results = profile, results
        self._cache = Cache()
        self._at_new = False  # the last look was at a new campaign that is not in place
        self._workers = 1  # as many as were seen at once

    def __call__(self) -> tuple[list[str], bool]:
        """The lines to show, most urgent first, and whether the campaign has ended."""
        folder, new = self._in_use()
        holder = folder.holder
        found = read(self._profile, folder, reader=self._cache.read)
        backlog = Backlog(plan.chapter_needs(self._profile), found.records, found.measures)
        missing = backlog.jobs()
        names = {job.name for job in missing}
        running = journal.running(folder)
        failed = {i: why for i, why in journal.failures(folder).items() if i in names}
        self._workers = max(self._workers, len(running)) if holder else 1
        ended = holder is None and backlog.done == backlog.total and not self._at_new

        lacking = counted(plan.chapter_needs(self._profile), found)
        seconds = None if lacking.seconds is None else lacking.seconds / self._workers
        left = "> " * lacking.is_floor + clock(seconds)
        wanted = {run.run_id for run in known_runs(backlog.cells, found.records)}
        diverged = sum(
            found.records[i]["status"] == "diverged" for i in wanted & found.records.keys()
        )
        lines = [
            f"{time.strftime('%H:%M:%S')} profile {self._profile.name} in {folder.path}",
            self._state(holder, ended),
            f"{bar(backlog.done, backlog.total)} {backlog.done}/{backlog.total} done, "
            f"{diverged} diverged, {len(running)} running, {len(failed)} failed, "
            f"{left} left",
        ]
        if new:
            again = self._command("reproduce")
            lines.append(f"an unfinished new campaign is in {new.path}; {again} resumes it")
        lines += status.differences(found)
        lines += _running_lines(running)
        lines += _failed_lines(failed, folder)
        return [*lines, "", *status.progress(found).splitlines()], ended

    def _in_use(self) -> tuple[ResultsFolder, ResultsFolder | None]:
        """The campaign to show, and an unfinished new one that no process runs."""
        committed, new = both(self._results, self._profile.name)
        # One that stopped stays in view with what failed in it, until it is put in place.
        self._at_new = new.path.exists() and (self._at_new or new.holder is not None)
        if self._at_new:
            return new, None
        return committed, new if new.path.exists() else None

    def _state(self, holder: str | None, ended: bool) -> str:
        if holder:
            return f"{holder} writes to the folder"
        again = self._command("reproduce" if self._at_new else "run")
        return "complete" if ended else f"no process writes to the folder; {again} resumes"

    def _command(self, verb: str) -> str:
        words = verb, "--profile", self._profile.name, "--results", self._results
        return f"`{command(*words)}`"


def _running_lines(running: Sequence[dict]) -> list[str]:
    rows = [("worker", "epoch", "test acc.", "for", "run")] if running else []
    for job in sorted(running, key=lambda job: (job["host"], job["pid"])):
        host = "" if job["host"] == socket.gethostname() else f"{job['host']}:"
        epoch = "-" if job["epoch"] is None else f"{job['epoch']}/{job['epochs']}"
        accuracy = "-" if job["accuracy"] is None else f"{job['accuracy']:.2f} %"
        since = clock(max(0.0, time.time() - job["since"]))
        rows.append((f"{host}{job['pid']} {job['device']}", epoch, accuracy, since, job["run_id"]))
    return ["" for _ in rows[:1]] + [
        f"{worker:<14} {epoch:>8} {accuracy:>9} {since:>7}  {run_id}"
        for worker, epoch, accuracy, since, run_id in rows
    ]


def _failed_lines(failed: dict[str, str], folder: ResultsFolder) -> list[str]:
    if not failed:
        return []
    lines = [f"  {i}: {why.splitlines()[0]}" for i, why in list(failed.items())[:_FAILURES]]
    if len(failed) > _FAILURES:
        lines.append(f"  ... and {len(failed) - _FAILURES} more")
    return ["", f"failed (logs in {folder.logs}):", *lines]


class Cache:
    """Reads a folder of records like `store.read`, but each file only when it is new.

    A damaged file is left out in silence: its record counts as missing, and `run` reports it.
    """

    def __init__(self):
        self._known: dict[Path, tuple[tuple[int, int], dict | None]] = {}

    def read(self, folder: Path, *, set_aside: bool = False) -> Records:
        """Every good record of a folder by run id; nothing is ever set aside.

        Raises:
            FormatError, UnreadableError: as `store.read`.
        """
        found = {path: self._one(path) for path in store.files(folder)}
        return {path.stem: record for path, record in found.items() if record is not None}

    def _one(self, path: Path) -> dict | None:
        try:
            stat = path.stat()
            stamp = stat.st_mtime_ns, stat.st_size
            if path not in self._known or self._known[path][0] != stamp:
                self._known[path] = stamp, self._checked(path)
        except FileNotFoundError:  # moved between the two
            return None
        return self._known[path][1]

    @staticmethod
    def _checked(path: Path) -> dict | None:
        try:
            return store.read_one(path)
        except (store.FormatError, store.UnreadableError):
            raise
        except store.RecordError:
            return None


class Screen:
    """Texts that take each other's place on a terminal, and follow each other elsewhere."""

    def __init__(self, stream: TextIO):
        self._stream, self._live, self._height = stream, stream.isatty(), 0

    def show(self, lines: Sequence[str], *, whole: bool = False) -> None:
        """Show a text; a terminal gets as much as it has room for, unless `whole`."""
        if not self._live:
            self.write("\n".join(lines) + "\n\n")
            return
        if not whole:  # a line that wraps or scrolls could not be drawn over
            width, height = shutil.get_terminal_size()
            if len(lines) > height - 1:
                more = len(lines) - (height - 2)
                lines = [*lines[: height - 2], f"... {more} more lines"]
            lines = [line[: width - 1] for line in lines]
        up = f"\x1b[{self._height}F" if self._height else ""
        self._height = len(lines)
        self.write(up + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")

    def write(self, text: str) -> None:
        """Write a text as it is, over the ^C that a terminal may show on this line."""
        self._stream.write(f"\r{text}" if self._live else text)
        self._stream.flush()
