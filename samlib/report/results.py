"""A profile's records seen through the study: accuracies at the chosen rho, paired differences."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from samlib.errors import ConfigError, RecordsMissing, choose, command
from samlib.files import project_root, resolve
from samlib.measures import measurement
from samlib.measures.measurement import MeasureRecords
from samlib.records import journal, store
from samlib.records.results_folder import ResultsFolder, committed
from samlib.records.store import Records
from samlib.report.names import method_name
from samlib.report.stats import Comparison, Share, compare, share_of_gain
from samlib.study import kept_plan, plan, profiles
from samlib.study.cells import Cell, Needs, missing_measurements, missing_runs
from samlib.study.methods import ALL, BASE, Method
from samlib.study.profile import Profile

# A column of `accuracies`: with BatchNorm statistics averaged anew over the training images.
USUAL, RECALIBRATED = "test_accuracy", "recalibrated_test_accuracy"  # statistics of BatchNorm


def _at_best(curves: dict[str, list]) -> float:
    evaluated = [(-v, i) for i, v in enumerate(curves["validation_accuracy"]) if v is not None]
    return curves["test_accuracy"][min(evaluated)[1]]


@dataclass(frozen=True)
class Results:
    """Records of one profile and what they say about cells.

    Attributes:
        profile: the profile.
        records: its records by run id.
        measures: what was measured on their final weights, by measure and run id.
        folder: `<results>/<profile>`.
    """

    profile: Profile
    records: Records
    measures: MeasureRecords
    folder: Path

    def cell(self, method: Method, problem: str | None = None) -> Cell:
        """A method's cell, in the headline problem unless told otherwise."""
        return self.profile.cell(problem or self.profile.headline, method)

    def rho(self, cell: Cell) -> float:
        """The rho chosen on the validation split.

        Raises:
            RecordsMissing: the sweep is not complete.
        """
        chosen = cell.chosen(self.records)
        if chosen is None:
            raise RecordsMissing(self._missing([cell]))
        return chosen

    def has(self, *cells: Cell) -> bool:
        """Whether the runs of some cells are there, at a chosen rho."""
        chosen = all(cell.chosen(self.records) is not None for cell in cells)
        return chosen and not missing_runs(cells, self.records)

    def ran(self, method: Method) -> bool:
        """Whether the profile runs a method on its headline network, and all its runs are there."""
        return self.profile.has(self.profile.headline, method) and self.has(self.cell(method))

    def tuned(self, method: Method) -> bool:
        """Whether the profile runs a method on its headline network, and its rho is chosen."""
        known = self.profile.has(self.profile.headline, method)
        return known and self.cell(method).chosen(self.records) is not None

    def at_edge(self, cell: Cell) -> bool:
        """Whether the chosen rho is the smallest or the largest of those that were searched."""
        return (cell.like or cell).search(self.records).at_edge

    def diverged(self, *cells: Cell) -> int:
        """How many of the cells' runs at the chosen rho diverged."""
        return sum(run["status"] == "diverged" for cell in cells for run in self.runs(cell))

    def searched(self, cell: Cell) -> tuple[float, ...]:
        """Every value that was searched, ascending."""
        return cell.values(self.records)

    def runs(self, cell: Cell, rho: float | None = None) -> list[dict]:
        """Records of the seeds that are compared, or, at a rho that is given, of those that tune.

        Raises:
            RecordsMissing: one is not there.
        """
        wanted = cell.at(self.rho(cell)) if rho is None else cell.at(rho, cell.tuning)
        if any(run.run_id not in self.records for run in wanted):
            raise RecordsMissing(self._missing([cell]))
        return [self.records[run.run_id] for run in wanted]

    def accuracies(
        self, cell: Cell, rho: float | None = None, column: str = "test_accuracy"
    ) -> pd.Series:
        """Accuracy in percent by seed; see `runs`. Last epoch unless `column` says otherwise.

        `column` is a field of the record or of its measures; None there is NaN here.
        """
        found = self.runs(cell, rho)
        seeds = [record["config"]["seed"] for record in found]
        values = [(record["measures"] | record)[column] for record in found]
        return pd.Series(values, index=seeds, dtype=float)

    def named(self, cells: Iterable[Cell]) -> dict[Method, str]:
        """Names of the methods of some cells, of those with the same runs the first alone.

        A search of the base optimizer's weight decay may choose the one that it has anyway.
        """
        first: dict[str, Method] = {}
        for cell in cells:
            first.setdefault(self.runs(cell)[0]["run_id"], cell.method)
        return {method: method_name(self.profile, method) for method in first.values()}

    def fitted(self, cell: Cell) -> float:
        """Mean training accuracy of the last epoch, in percent of the labels trained on."""
        curves = [record["curves"]["train_accuracy"] for record in self.runs(cell)]
        return sum(curve[-1] for curve in curves) / len(curves)

    def together(self, *cells: Cell) -> pd.DataFrame:
        """Accuracies in percent on the seeds that all cells have: a column each, in order."""
        columns = [self.accuracies(cell) for cell in cells]
        return pd.concat(columns, axis=1, keys=range(len(cells))).dropna()

    def measured(self, cell: Cell, measure: str, rho: float | None = None) -> dict[int, dict]:
        """What was measured on a cell's runs, by seed; see `runs`. Diverged ones have none.

        Raises:
            RecordsMissing: none was, or not every one that is planned.
        """
        found = self.with_diverged(cell, measure, rho)
        return {seed: values for seed, values in found.items() if values is not None}

    def with_diverged(
        self, cell: Cell, measure: str, rho: float | None = None
    ) -> dict[int, dict | None]:
        """The same as `measured` with None for measured runs that diverged."""
        runs, measures = self.runs(cell, rho), self.measures[measure]
        planned = self._planned.get((cell, measure, rho is not None), 0)
        found = {r["config"]["seed"]: measures.get(r["run_id"]) for r in runs}
        lacking = [seed for seed in [*found][:planned] if found[seed] is None]
        known = {seed: record["values"] for seed, record in found.items() if record is not None}
        if lacking or not known:
            raise RecordsMissing(
                f"{'not every' if known else 'no'} {measure} of "
                f"{method_name(self.profile, cell.method)} has been measured in "
                f"{self.folder / 'measures'}: run `{self.to_run()}`"
            )
        return known

    @functools.cached_property
    def _planned(self) -> dict[tuple[Cell, str, bool], int]:
        """How many seeds are planned, by cell, measure, and whether every value is measured."""
        planned = {}
        for needs in plan.chapter_needs(self.profile):
            for wanted in needs.measured:
                key = wanted.cell, wanted.measure, wanted.every_value
                planned[key] = max(wanted.seeds, planned.get(key, 0))
        return planned

    def early_stopped(self, cell: Cell) -> pd.Series:
        """Test accuracy by seed at the epoch, of those evaluated, that validation puts first."""
        found = self.runs(cell)
        seeds = [record["config"]["seed"] for record in found]
        return pd.Series([_at_best(record["curves"]) for record in found], seeds, dtype=float)

    @property
    def margin(self) -> float:
        """Differences of accuracy within it, in points, are of no interest."""
        return self.profile.margin

    def compare(self, better: Cell, worse: Cell, *, column: str = "test_accuracy") -> Comparison:
        """`better` minus `worse`, paired by seed, each at its chosen rho."""
        return self.judge(self.difference(better, worse, column=column))

    def difference(self, better: Cell, worse: Cell, *, column: str = "test_accuracy") -> pd.Series:
        """The same by seed, in points, of the seeds that both have."""
        here, there = (self.accuracies(cell, column=column) for cell in (better, worse))
        return (here - there).dropna()

    def judge(self, differences: pd.Series) -> Comparison:
        """Differences of accuracy by seed; a seed that one side does not have is NaN."""
        return compare(differences.dropna(), self.margin)

    def share(
        self, accuracies: pd.Series, of: Method = ALL, *, column: str = "test_accuracy"
    ) -> Share | None:
        """The gain of some accuracies over the base optimizer, as a share of a method's; `Share`.

        On the seeds that all three have; None where the method's own gain is not clear. `column` is
        that of the other two, as in `accuracies`.
        """
        base, whole = (self.accuracies(self.cell(m), column=column) for m in (BASE, of))
        gains = pd.DataFrame({"gain": accuracies - base, "whole": whole - base}).dropna()
        return share_of_gain(gains["gain"], gains["whole"])

    def require(self, needs: Needs) -> None:
        """Check that every run and measurement of a chapter is there.

        Raises:
            RecordsMissing: names how many are missing and the command to run.
        """
        if not self.has(*needs.cells):
            raise RecordsMissing(self._missing(needs.cells))
        jobs = missing_measurements(needs.measured, self.records, self.measures)
        if jobs:
            raise RecordsMissing(
                f"{len(jobs)} measurements are not in {self.folder / 'measures'}, the first is "
                f"{jobs[0].name}: run `{self.to_run()}`"
            )

    def lacks(self, needs: Needs) -> bool:
        """Whether a chapter cannot be shown: a run or a measurement that it needs is missing."""
        jobs = missing_measurements(needs.measured, self.records, self.measures)
        return not self.has(*needs.cells) or bool(jobs)

    def to_run(self, chapter: str | None = None) -> str:
        """The command that makes what the profile, or one chapter of it, lacks."""
        only = ["--only", chapter] if chapter else []
        return self.command("run", "--profile", self.profile.name, *only)

    def command(self, *words: object) -> str:
        """A command that reads or writes these results: names their folder if not the default."""
        elsewhere = self.folder.parent.resolve() != (project_root() / "results").resolve()
        return command(*words, *(["--results", self.folder.parent] if elsewhere else []))

    def _missing(self, cells: Sequence[Cell]) -> str:
        runs = missing_runs(cells, self.records)
        if not runs:
            return f"no run is missing in {self.folder / 'runs'}, and none has the value asked for"
        return (
            f"{len(runs)} runs have no record in {self.folder / 'runs'}, the first is "
            f"{runs[0].run_id}: run `{self.to_run()}`"
        )


def load(profile: str, results: str | Path, *, needs: str | None = None) -> Results:
    """Read a profile's records.

    Args:
        profile: its name.
        results: folder of all profiles' results.
        needs: a notebook whose runs must all be there.

    Raises:
        ConfigError: an unknown profile.
        RecordsMissing: a run the notebook needs is not there.
    """
    known = profiles.get(profile)
    found = read(known, committed(Path(results), profile))
    if needs is not None:
        for of_chapter in plan.chapter_needs(found.profile, needs):
            found.require(of_chapter)
    return found


def read(
    profile: Profile, folder: ResultsFolder, *, reader: Callable[..., Records] = store.read
) -> Results:
    """What a results folder holds of a profile; `reader` may stand in for `store.read`."""
    runs = reader(folder.runs)
    measures = measurement.read(folder, runs, reader=reader)
    return Results(profile, runs, measures, folder.path)


def open_for_notebook(notebook: str, profile: str, results: str, missing: str) -> Results:
    """What a notebook's first cell calls: its records, training what is missing if asked to.

    Args:
        notebook: its name.
        profile: the profile's name.
        results: folder of all profiles' results, from the project's root.
        missing: "train" what is missing in worker processes, or "error".

    Records are read from anywhere, but trained only into a folder of the project, whatever
    parameters a notebook is started with.

    Raises:
        ConfigError: a bad parameter.
        RecordsMissing: a run is missing and is not to be trained, or failed.
    """
    from samlib.campaign.runner import run_missing

    choose("value of missing", missing, ("train", "error"))
    if not isinstance(results, str):
        raise ConfigError(f"results must be a folder's path, not {results!r}")
    folder = resolve(results)
    found = load(profile, folder)
    groups = plan.chapter_needs(found.profile, notebook)
    if missing == "train" and any(found.lacks(group.with_beside()) for group in groups):
        if ".." in folder.parts or not folder.is_relative_to(project_root()):
            raise ConfigError(
                f"runs are missing, and a notebook does not write to {folder}, outside "
                f"{project_root()}: run `{found.to_run()}` first"
            )
        at = committed(folder, profile)
        with at.locked():
            kept_plan.keep(at, found.profile, groups)
            outcome = run_missing(groups, at, device=found.profile.device)
        for run_id, reason in outcome.failed.items():
            raise RecordsMissing(journal.failure_text(at, run_id, reason))
        found = load(profile, folder)
    for group in groups:
        found.require(group)
    return found
