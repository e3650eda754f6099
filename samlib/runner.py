"""Bringing a profile's records up to date: what is missing, in which order, for how long."""

import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from . import records as records_
from .campaign import Campaign
from .config import NO_PERTURBATION, RunConfig
from .execute import LocalExecutor, Outcome
from .records import Records
from .study import Cell, missing, size


class Estimate:
    """How long runs take, learned from records of this machine's campaign."""

    def __init__(self, records: Records):
        self._seconds: dict[tuple, list[float]] = {}
        for record in records.values():
            self.add(record)

    @staticmethod
    def _kind(config: dict) -> tuple:
        perturbed = config["geometry"] != NO_PERTURBATION
        return config["dataset"], config["model"], perturbed, config["mask"] == "only_norm"

    def add(self, record: dict) -> None:
        """Learn from one more record."""
        per_epoch = record["times"]["wall"] / len(record["times"]["epochs"])
        self._seconds.setdefault(self._kind(record["config"]), []).append(per_epoch)

    def seconds(self, config: RunConfig) -> float | None:
        """Expected wall time of a run; None if nothing on its data set and model has run."""
        kind = self._kind(config.to_dict())
        known = self._seconds.get(kind)
        if known is None:  # the slowest kind on the same model stands in
            same = [statistics.median(v) for k, v in self._seconds.items() if k[:2] == kind[:2]]
            return max(same) * config.epochs if same else None
        return statistics.median(known) * config.epochs

    def total(self, configs: Sequence[RunConfig], unknown_runs: int = 0) -> float | None:
        """Expected seconds of some runs one after the other, and of as many more like them."""
        known = [s for s in map(self.seconds, configs) if s is not None]
        if not known:
            everything = [s for v in self._seconds.values() for s in v]
            if not everything or not configs:
                return None if configs or unknown_runs else 0.0
            mean = statistics.mean(everything) * configs[0].epochs
        else:
            mean = statistics.mean(known)
        return sum(known) + mean * (len(configs) - len(known) + unknown_runs)


def clock(seconds: float | None) -> str:
    """A duration for people.

    >>> clock(75), clock(3 * 3600 + 120), clock(None)
    ('1m15s', '3h02m', '?')
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def default_workers(device: str) -> int:
    """Worker processes where none were asked for: one per core, or one on a GPU."""
    return (os.cpu_count() or 1) if device == "cpu" else 1


class Progress:
    """One line that is rewritten on a terminal, and a line now and then in a log file."""

    def __init__(self, total: int, done: int, stream: TextIO | None = None, every: float = 30.0):
        self.total, self.done, self.failed = total, done, 0
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._every, self._last, self._shown = every, -every, -1

    def show(self, left: float | None, final: bool = False) -> None:
        """Print the state if it is due; `left` is the expected time in seconds."""
        now = time.monotonic()
        due = self.live or final or now - self._last >= self._every
        if not due or (final and self._shown == self.done):
            return
        self._last, self._shown = now, self.done
        share = self.done / self.total if self.total else 1.0
        bar = "#" * round(24 * share)
        text = f"[{bar:.<24}] {self.done}/{self.total} runs, {clock(left)} left"
        if self.failed:
            text += f", {self.failed} failed"
        self.stream.write(f"\r\x1b[K{text}" if self.live else f"{text}\n")
        if self.live and final:
            self.stream.write("\n")
        self.stream.flush()


def bring_up_to_date(
    groups: Sequence[Sequence[Cell]],
    campaign: Campaign,
    *,
    workers: int,
    device: str = "cpu",
    data_dir: Path | None = None,
    time_budget: float | None = None,
    quiet: bool = False,
) -> Outcome:
    """Train every run of some cells that has no record yet.

    Args:
        groups: cells group by group; each is complete before the next begins, so that what is
            most decisive comes first.
        campaign: where the records are; the caller holds its lock.
        workers, device, data_dir: as in `execute.LocalExecutor`.
        time_budget: seconds; no run is started that is expected to end after them.
        quiet: show no progress.

    Raises:
        RecordError: the folder was made by another record format.
    """
    begun = time.monotonic()
    records = records_.read(campaign.runs, set_aside=True)
    estimate = Estimate(records)
    everything = list(dict.fromkeys(cell for group in groups for cell in group))
    total, outcome = size(everything), Outcome()
    open_runs = {run.run_id for run in missing(everything, records)}
    progress = Progress(total, 0)

    def report(final: bool = False) -> None:
        todo = [run for run in missing(everything, records) if run.run_id not in outcome.failed]
        done = len(_wanted(everything, records))
        progress.done, progress.failed = done, len(outcome.failed)
        left = estimate.total(todo, max(0, total - done - len(todo)))
        if not quiet:
            progress.show(None if left is None else left / workers, final)

    def may_start(config: RunConfig) -> bool:
        if time_budget is None:
            return True
        left = time_budget - (time.monotonic() - begun)
        return left > (estimate.seconds(config) or 0)

    def on_done(config: RunConfig, failure: str | None) -> None:
        if failure is None:
            record = records_.read_one(campaign.runs / f"{config.run_id}.json")
            records[config.run_id] = record
            estimate.add(record)
        else:
            outcome.failed[config.run_id] = failure
            if not quiet:
                print(f"\n{config.run_id} failed: {failure}", file=sys.stderr)
        report()

    if not open_runs:
        return outcome
    report()
    with LocalExecutor(campaign, workers=workers, device=device, data_dir=data_dir) as executor:
        for group in groups:
            while True:  # once for the sweeps, once more for the rho they chose
                tried = {*outcome.failed, *outcome.skipped}
                todo = [run for run in missing(group, records) if run.run_id not in tried]
                if not todo:
                    break
                part = executor.run(todo, may_start=may_start, on_done=on_done)
                outcome.done += part.done
                outcome.skipped += part.skipped
    report(final=True)
    return outcome


def _wanted(cells: Sequence[Cell], records: Records) -> set[str]:
    return {r.run_id for cell in cells for r in cell.runs(records) if r.run_id in records}
