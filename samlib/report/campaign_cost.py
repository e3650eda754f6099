"""What the campaigns of all profiles cost, from steps that were timed.

A run is its steps and its evaluations. A perturbed step counts at SAM's time whatever its mask, one
of a single pass at the base optimizer's.
Nothing is said of hardware that was not timed. Measurements of final weights are left out.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pandas as pd

from samlib.bench import networks, timing
from samlib.data.info import INFO
from samlib.records import store
from samlib.report import tidy
from samlib.report.results import Results
from samlib.report.text import listed, number, span
from samlib.study import plan, profiles
from samlib.study.cells import Cell, all_cells, known_runs, missing_runs
from samlib.study.members import one_pass
from samlib.trainer.config import NO_PERTURBATION, RunConfig

DEVICES = (1, 8, 64)


class Cost(NamedTuple):
    """Expected seconds on one device of all runs, and of the longest one alone."""

    total: float
    longest: float

    def on(self, devices: int) -> float:
        """Seconds on that many devices: runs share none, so the longest one bounds it."""
        return max(self.total / devices, self.longest)


def estimated(cells: Iterable[Cell], record: dict, ratio: float) -> Cost | None:
    """What the runs of some cells cost, from a record; None if a network is not in it.

    Args:
        cells: the study's.
        record: what `measure` returned.
        ratio: time of a perturbed step over one of the base optimizer; the same for every mask.
    """
    runs, total, longest = counted(cells), 0.0, 0.0
    for config, count in runs.items():
        one = _timed(config, record, ratio)
        if one is None:
            return None
        total, longest = total + count * one, max(longest, one)
    return Cost(total, longest)


def _timed(config: RunConfig, record: dict, ratio: float) -> float | None:
    """Seconds of a run; None if its network is not in the record."""
    known = {tuple(e["network"].values()): e["seconds"] for e in record["networks"]}
    took = known.get(tuple(networks.identity(config).values()))
    if took is None:
        return None
    return _seconds(config, took["step"][1], took["evaluation"][1], ratio)


def kind_of_device(results: Results) -> str:
    """Where a profile's records were made, cpu or cuda; without any, where they would be."""
    on_gpu = [bool(r["provenance"].get("gpu")) for r in results.records.values()]
    return ("cpu", "cuda")[any(on_gpu)] if on_gpu else results.profile.device


def of_run(results: Results, device: str) -> Callable[[RunConfig], float | None]:
    """What estimates the seconds of a run on a kind of device, cpu or cuda, from timed steps."""
    timings = timing.read(results.folder.parent, "networks")
    record = next((r for r in timings if r["run_id"] == f"networks-{device}"), None)
    if record is None:
        return lambda config: None
    ratio = _ratio(results, timing.hardware(record))
    return lambda config: _timed(config, record, ratio)


def counted(cells: Iterable[Cell]) -> Counter[RunConfig]:
    """How many runs like each configuration some cells come to, from no records on."""
    cells = list(dict.fromkeys(cells))
    found = Counter(known_runs(cells, {}))
    for cell in cells:
        found[cell.any_run] += cell.expected({})
    return found


def _seconds(config: RunConfig, step: float, evaluation: float, ratio: float) -> float:
    """One run: its steps, perturbed or not, and its evaluations."""
    training, evaluated = images(config)
    plain = config.epochs
    perturbed = 0
    if config.geometry != NO_PERTURBATION and not one_pass(config.member):
        end = config.epochs if config.end is None else min(config.end, config.epochs)
        perturbed = max(0, end - config.start)
    steps = math.ceil(training / config.batch_size)
    batches = evaluated / config.batch_size * math.ceil(config.epochs / config.eval_every)
    return steps * (plain + (ratio - 1) * perturbed) * step + batches * evaluation


def images(config: RunConfig) -> tuple[int, int]:
    """How many images a run trains on, and evaluates on."""
    info = INFO[config.dataset]
    training = config.train_size or info.train_count - config.validation_size
    left = info.train_count - training - config.validation_size
    test = info.test_count if info.official_test else left
    return training, config.validation_size + test


def _ratio(results: Results, where: str) -> float:
    """Median over the networks of SAM's step time on some hardware; 2 where none was timed."""
    records = timing.read(results.folder.parent, "step")
    ratios = [r["ratios"]["all"][1] for r in records if timing.hardware(r) == where]
    return statistics.median(ratios) if ratios else 2.0


def _on(devices: int) -> str:
    return f"on {devices} device{'s' * (devices > 1)}"


def table(results: Results) -> pd.DataFrame:
    """Runs, epochs and expected time of every profile, on one device of each kind and on more."""
    timings = timing.read(results.folder.parent, "networks")
    rows = []
    for profile in profiles.PROFILES.values():
        if profile.name in networks.SKIPPED:
            continue
        cells = all_cells(plan.chapter_needs(profile))
        about = {
            "profile": profile.name,
            "runs, about": sum(counted(cells).values()),
            "epochs": sum(n * config.epochs for config, n in counted(cells).items()),
        }
        for kind, where in (("cpu", "CPU"), ("cuda", "GPU")):
            record = next((r for r in timings if r["run_id"] == f"networks-{kind}"), None)
            cost = Cost(math.nan, math.nan)
            if record is not None:
                where = timing.hardware(record)
                cost = estimated(cells, record, _ratio(results, where)) or cost
            times = {_on(n): {"seconds": cost.on(n)} for n in DEVICES}
            rows.append(about | {"device": where, "device-hours": cost.total / 3600} | times)
    return tidy.table(rows)


def expected(results: Results, cells: Iterable[Cell]) -> str:
    """Time on one device of each kind that was timed, for the runs of some cells."""
    cells, found = list(cells), []
    for record in timing.read(results.folder.parent, "networks"):
        where = timing.hardware(record)
        cost = estimated(cells, record, _ratio(results, where))
        if cost is not None:
            found.append(f"{span(cost.total)} on {where}")
    return "; ".join(found) or "not measured"


def finding(results: Results) -> str:
    """What the estimate rests on, and how it compares with the runs that were done."""
    timings = timing.read(results.folder.parent, "networks")
    if not timings:
        command = results.command("bench", "networks")
        return f"Not run; `{command}` times the steps of every network."
    parts = []
    for record in timings:
        where = timing.hardware(record)
        ratio = number(_ratio(results, where))
        parts.append(f"on {where} a perturbed step counts {ratio} times one of the base optimizer")
    text = (
        f"The estimate: {listed(parts)}, whatever its mask, which is too much where norm layers "
        "alone are perturbed; measurements are left out."
    )
    return text + _check(results, timings)


def _check(results: Results, timings: list[dict]) -> str:
    """The estimate for this profile's runs beside the seconds in their records."""
    cells = all_cells(plan.chapter_needs(results.profile))
    done = known_runs(cells, results.records)
    if missing_runs(cells, results.records):
        return ""
    origins = {_origin(results.records[run.run_id]) for run in done}
    for record in timings:
        p = record["provenance"]
        if origins != {p["gpu"] or p["processor"]}:
            continue
        where = timing.hardware(record)
        cost = estimated(cells, record, _ratio(results, where))
        if cost is None:
            continue
        took = sum(store.seconds(results.records[run.run_id]) for run in done)
        return (
            f" For {results.profile.name} it gives {span(cost.total)}; the records of these runs "
            f"add up to {span(took)}."
        )
    return ""


def _origin(record: dict) -> str:
    """What a run was trained on."""
    return record["provenance"]["gpu"] or record["provenance"]["processor"]
