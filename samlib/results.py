"""A profile's records seen through the study: accuracies at the chosen rho, paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from . import profiles, records, study
from .campaign import place
from .errors import ConfigError, RecordsMissing, choose
from .records import Records
from .stats import Comparison, compare
from .study import Cell, Method, Profile


@dataclass(frozen=True)
class Results:
    """Records of one profile and what they say about cells.

    Attributes:
        profile: the profile.
        records: its records by run id.
        folder: `<results>/<profile>`.
    """

    profile: Profile
    records: Records
    folder: Path

    def cell(self, method: Method, family: str | None = None) -> Cell:
        """A method's cell, in the headline family unless told otherwise."""
        return self.profile.cell(family or self.profile.headline, method)

    def rho(self, cell: Cell) -> float:
        """The rho chosen on the validation split.

        Raises:
            RecordsMissing: the sweep is not complete.
        """
        chosen = cell.chosen(self.records)
        if chosen is None:
            raise RecordsMissing(self._missing([cell]))
        return chosen

    def runs(self, cell: Cell, rho: float | None = None) -> list[dict]:
        """Records at one rho (None: the chosen one) in the order of seeds, as many as there are.

        Raises:
            RecordsMissing: none at that rho, or the chosen one is not complete.
        """
        if rho is None:
            wanted = cell.at(self.rho(cell), cell.seeds)
            if any(run.run_id not in self.records for run in wanted):
                raise RecordsMissing(self._missing([cell]))
        else:
            wanted = cell.at(rho, cell.seeds)
        return [self.records[run.run_id] for run in wanted if run.run_id in self.records]

    def accuracies(
        self, cell: Cell, rho: float | None = None, column: str = "test_accuracy"
    ) -> pd.Series:
        """Accuracy in percent by seed; see `runs`. Last epoch unless `column` says otherwise."""
        found = self.runs(cell, rho)
        seeds = [record["config"]["seed"] for record in found]
        return pd.Series([record[column] for record in found], index=seeds, dtype=float)

    def compare(
        self,
        better: Cell,
        worse: Cell,
        *,
        rhos: tuple[float | None, float | None] = (None, None),
        column: str = "test_accuracy",
    ) -> Comparison:
        """`better` minus `worse`, paired by seed, each at its chosen rho or at the one given."""
        difference = self.accuracies(better, rhos[0], column) - self.accuracies(
            worse, rhos[1], column
        )
        return compare(difference.dropna())

    def require(self, cells: Sequence[Cell]) -> None:
        """Check that every run of some cells is there.

        Raises:
            RecordsMissing: names how many are missing and the command to run.
        """
        if study.missing(cells, self.records):
            raise RecordsMissing(self._missing(cells))

    def _missing(self, cells: Sequence[Cell]) -> str:
        runs = study.missing(cells, self.records)
        return (
            f"{len(runs)} runs have no record in {self.folder / 'runs'}, the first is "
            f"{runs[0].run_id}: run `python -m samlib run --profile {self.profile.name} "
            f"--results {self.folder.parent}`"
        )


def load(profile: str, results: Path, *, needs: str | None = None) -> Results:
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
    campaign = place(results, profile)
    found = Results(known, records.read(campaign.runs), campaign.folder)
    if needs is not None:
        for cells in study.notebook_cells(found.profile, needs):
            found.require(cells)
    return found


def open_for_notebook(notebook: str, profile: str, results: str, missing: str) -> Results:
    """What a notebook's first cell calls: its records, training what is missing if asked to.

    Args:
        notebook: its name.
        profile: the profile's name.
        results: folder of all profiles' results, from the project's root.
        missing: "train" what is missing in worker processes, or "error".

    Raises:
        ConfigError: a bad parameter.
        RecordsMissing: a run is missing and is not to be trained, or failed.
    """
    from .paths import resolve
    from .runner import bring_up_to_date, default_workers

    choose("value of missing", missing, ("train", "error"))
    if not isinstance(results, str):
        raise ConfigError(f"results must be a folder's path, not {results!r}")
    found = load(profile, resolve(results))
    groups = study.notebook_cells(found.profile, notebook)
    if missing == "train" and any(study.missing(cells, found.records) for cells in groups):
        campaign = place(resolve(results), profile)
        with campaign.locked():
            device = found.profile.device
            bring_up_to_date(groups, campaign, workers=default_workers(device), device=device)
    return load(profile, resolve(results), needs=notebook)
