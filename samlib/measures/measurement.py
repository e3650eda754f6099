"""What is measured on the final weights of a run, after it: one more record beside the run's own.

A run's record is written once, so that a measure thought of later is a record of its own, at
`results/<profile>/measures/<measure>/<run_id>.json`. It names the checksum of the run it belongs
to: a run done again is measured again. Weights are kept beside the records, out of git; where
they are gone the run is repeated, and must end as its record says, which it can on a CPU only.
Whatever is measured is computed without TensorFloat-32.

Some measures are of a run and its twin, the base optimizer's run of the same seed and problem;
their records belong to both.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from samlib.errors import SamlibError
from samlib.measures.connectivity import connectivity
from samlib.measures.curvature import curvature
from samlib.measures.robustness import robustness, robustness_in_short
from samlib.measures.self_training import self_training
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
from samlib.trainer.diagnostics import affine_measures
from samlib.trainer.loop import Trainer
from samlib.trainer.one_run import restored, train

# Each takes the run as it ended; those of pairs, its twin's final weights after it.
MEASURES: dict[str, Callable[..., dict]] = {
    "sharpness": sharpness,
    "robustness": robustness,
    "robustness_in_short": robustness_in_short,
    "shifted_sets": shifted_sets,
    "curvature": curvature,
    "self_training": self_training,
    "connectivity": connectivity,
}
OF_PAIRS = {"connectivity"}

_DEFAULT = RunConfig()  # of the base optimizer alone
_ASCENT = ("geometry", "mask", "rho", "eta", "sparsity", "radius_over", "batchnorm", "start", "end")
_ASCENT += ("member",)


def twin(config: RunConfig) -> RunConfig:
    """The base optimizer's run of the same seed and problem."""
    return config.replace(**{name: getattr(_DEFAULT, name) for name in _ASCENT})


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

    @property
    def runs(self) -> tuple[RunConfig, ...]:
        """The runs whose final weights it is of: its own, then the twin where it is of a pair."""
        pair = self.measure in OF_PAIRS
        return (self.config, twin(self.config)) if pair else (self.config,)

    def record(self, folder: ResultsFolder) -> Path:
        """File of the record the job writes."""
        return folder.measures(self.measure) / f"{self.config.run_id}.json"

    def reads(self, folder: ResultsFolder) -> Sequence[Path]:
        """Files of the folder the job reads, where they exist."""
        ids = [run.run_id for run in self.runs]
        return *(folder.runs / f"{i}.json" for i in ids), *(folder.weights(i) for i in ids)

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
        NotTheSame: weights are not those of the record; or they were gone, and repeating their
            run gave, or on a GPU would give, other numbers.
        DiskError: the record cannot be written.
    """
    records = [store.read_one(folder.runs / f"{run.run_id}.json") for run in job.runs]
    weights = [
        _weights(run, record, folder, device, data_dir, on_epoch)
        for run, record in zip(job.runs, records, strict=True)
    ]
    begun, found = time.perf_counter(), None
    if all(record["status"] == "completed" for record in records):
        with (
            restored(job.config, weights[0], device=device, data_dir=data_dir) as run,
            _one_thread(),
            full_precision(),
        ):
            _check(run.model, records[0], folder.weights(job.config.run_id))
            found = MEASURES[job.measure](run, *weights[1:])
    with full_precision():
        where = provenance(device, measuring=True)
    result = {
        "run_id": job.config.run_id,
        "measure": job.measure,
        **_belongs(*records),
        "config": job.config.to_dict(),
        "values": found,
        "times": {"wall": time.perf_counter() - begun},
        "provenance": where,
    }
    store.write(folder.measures(job.measure), result)
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for linear algebra, on whose number of threads ARPACK's last bits depend."""
    import_module("scipy.linalg")  # brings a BLAS of its own; what is loaded later has no limit
    with threadpool_limits(1, user_api="blas"):
        yield


def _belongs(run: dict, twin: dict | None = None) -> dict[str, str]:
    """What a measurement says of the records it belongs to: their checksums."""
    return {"of": run["checksum"]} | ({"twin": twin["checksum"]} if twin else {})


def _weights(
    config: RunConfig,
    record: dict,
    folder: ResultsFolder,
    device: str,
    data_dir: Path | None,
    on_epoch: Callable[[Trainer], None] | None,
) -> dict[str, torch.Tensor]:
    """The final weights of a run that has a record, made again where they are gone."""
    path = folder.weights(config.run_id)
    if (weights := checkpoint.load(path)) is not None:
        return weights
    on_gpu = record["provenance"]["gpu"] is not None
    if on_gpu or device != "cpu":
        where = "copy them from where it was trained" if on_gpu else "measure it with --device cpu"
        raise NotTheSame(
            f"the weights of {config.run_id} are not at {path}, and a GPU does not repeat a run "
            f"bit for bit: {where}, or remove its record to have it trained anew"
        )
    # Under a name of its own until they are known to be those of the record.
    own = path.with_name(f".{config.run_id}.{os.getpid()}.tmp")
    try:
        again = train(config, device=device, data_dir=data_dir, weights=own, on_epoch=on_epoch)
        if again["curves"] != record["curves"]:
            raise NotTheSame(
                f"the weights of {config.run_id} are not at {path}, and the run repeated here does "
                "not end as its record says: measure it where it was trained, or remove its record "
                "to have it trained anew"
            )
        os.replace(own, path)
    finally:
        checkpoint.discard(own)
    return checkpoint.load(path)


def _check(model: torch.nn.Module, record: dict, path: Path) -> None:
    """Check that weights are those of a record: mean |gamma| and |beta| as it has them.

    Raises:
        NotTheSame: they are of another run of that name.
    """
    found, kept = affine_measures(model), record["measures"]
    for name in ("gamma_abs_mean", "beta_abs_mean"):
        if kept.get(name) is not None and not math.isclose(found[name], kept[name], rel_tol=1e-4):
            raise NotTheSame(
                f"the weights at {path} are not those of its record: remove them to have the run "
                "repeated, or copy them from where it was trained"
            )


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
        found[name] = {i: record for i, record in kept.items() if _believed(record, runs)}
    return found


def _believed(record: dict, runs: Records) -> bool:
    """Whether a measurement belongs to the runs as they are now recorded."""
    job = MeasureJob(RunConfig.from_dict(record["config"]), record["measure"])
    of = [runs.get(run.run_id) for run in job.runs]
    return all(of) and _belongs(*of).items() <= record.items()
