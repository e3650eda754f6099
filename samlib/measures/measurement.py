"""What is measured on the final weights of a run, after it: one more record beside the run's own.

A run's record is written once, so that a measure thought of later is a record of its own, at
`results/<profile>/measures/<measure>/<run_id>.json`. It names the checksum of the run it belongs
to: a run done again is measured again. Weights are kept beside the records, out of git; where
they are gone the run is repeated, and must end as its record says, which it can on a CPU only.
Whatever is measured is computed without TensorFloat-32.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from samlib.errors import SamlibError
from samlib.measures.robustness import robustness
from samlib.measures.sharpness import sharpness
from samlib.measures.shifted_sets import shifted_sets
from samlib.provenance import provenance
from samlib.records import store
from samlib.records.journal import Journal
from samlib.records.results_folder import ResultsFolder
from samlib.records.store import Records
from samlib.sam.restore import full_precision
from samlib.trainer import checkpoint
from samlib.trainer.config import RunConfig
from samlib.trainer.loop import Trainer
from samlib.trainer.one_run import restored, train

MEASURES: dict[str, Callable[[Trainer], dict]] = {
    "sharpness": sharpness,
    "robustness": robustness,
    "shifted_sets": shifted_sets,
}


@dataclass(frozen=True)
class MeasureJob:
    """One measure of one run, as a job of a campaign beside runs to train."""

    config: RunConfig
    measure: str

    @property
    def name(self) -> str:
        """Name for logs and summaries."""
        return f"{self.measure}-of-{self.config.run_id}"

    @property
    def epochs(self) -> int:
        """Epochs the job is expected to train: none, which counts as one."""
        return 1

    def record(self, folder: ResultsFolder) -> Path:
        """File of the record the job writes."""
        return folder.measures(self.measure) / f"{self.config.run_id}.json"

    def reads(self, folder: ResultsFolder) -> Sequence[Path]:
        """Files of the folder the job reads, where they exist."""
        run_id = self.config.run_id
        return folder.runs / f"{run_id}.json", folder.weights(run_id)

    def run(self, folder: ResultsFolder, log: Journal, device: str, data_dir: Path | None) -> None:
        """Measure the run; write what was found."""
        measure(self, folder, device=device, data_dir=data_dir, on_epoch=log.epoch)
        log.stamp("measured")


class NotTheSame(SamlibError):
    """A run repeated for its weights did not end as its record says."""


def measure(
    job: MeasureJob,
    folder: ResultsFolder,
    *,
    device: str = "cpu",
    data_dir: Path | None = None,
    on_epoch: Callable[[Trainer], None] | None = None,
) -> dict:
    """Measure a run that has a record, write what was found, and return it.

    `on_epoch` is told of the epochs of a run that has to be repeated; see `one_run.train`.

    Raises:
        NotTheSame: its weights were gone, and repeating it gave, or on a GPU would give, other
            numbers.
        DiskError: the record cannot be written.
    """
    run_id = job.config.run_id
    record = store.read_one(folder.runs / f"{run_id}.json")
    weights = checkpoint.load(folder.weights(run_id))
    if weights is None:
        weights = _repeated(job.config, record, folder, device, data_dir, on_epoch)
    begun, found = time.perf_counter(), None
    if record["status"] == "completed":
        with (
            restored(job.config, weights, device=device, data_dir=data_dir) as run,
            threadpool_limits(1, user_api="blas"),  # ARPACK's last bits depend on their number
            full_precision(),
        ):
            found = MEASURES[job.measure](run)
    with full_precision():
        where = provenance(device, measuring=True)
    result = {
        "run_id": run_id,
        "measure": job.measure,
        "of": record["checksum"],
        "config": job.config.to_dict(),
        "values": found,
        "times": {"wall": time.perf_counter() - begun},
        "provenance": where,
    }
    store.write(folder.measures(job.measure), result)
    return result


def _repeated(
    config: RunConfig,
    record: dict,
    folder: ResultsFolder,
    device: str,
    data_dir: Path | None,
    on_epoch: Callable[[Trainer], None] | None,
) -> dict[str, torch.Tensor]:
    path = folder.weights(config.run_id)
    on_gpu = record["provenance"]["gpu"] is not None
    if on_gpu or device != "cpu":
        where = "copy them from where it was trained" if on_gpu else "measure it with --device cpu"
        raise NotTheSame(
            f"the weights of {config.run_id} are not at {path}, and a GPU does not repeat a run "
            f"bit for bit: {where}, or remove its record to have it trained anew"
        )
    again = train(config, device=device, data_dir=data_dir, weights=path, on_epoch=on_epoch)
    if again["curves"] != record["curves"]:
        path.unlink()
        raise NotTheSame(
            f"the weights of {config.run_id} are not at {path}, and the run repeated here does "
            "not end as its record says: measure it where it was trained, or remove its record "
            "to have it trained anew"
        )
    return checkpoint.load(path)


MeasureRecords = dict[str, Records]  # by measure, then by run id


def read(
    folder: ResultsFolder,
    runs: Records,
    *,
    set_aside: bool = False,
    reader: Callable[..., Records] = store.read,
) -> MeasureRecords:
    """Every good measurement that belongs to one of these runs; see `store.read`."""
    found = {}
    for name in MEASURES:
        kept = reader(folder.measures(name), set_aside=set_aside)
        found[name] = {
            run_id: record
            for run_id, record in kept.items()
            if run_id in runs and record["of"] == runs[run_id]["checksum"]
        }
    return found
