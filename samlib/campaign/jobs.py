"""One job of a campaign: a run to train or a measurement to take, and its record written.

The worker writes the record itself, so that a finished run is on disk even if the campaign dies.
"""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from samlib.errors import SamlibError, first_line
from samlib.files import DiskError
from samlib.measures.measurement import MeasureJob
from samlib.records import store
from samlib.records.journal import Journal
from samlib.records.results_folder import ResultsFolder
from samlib.trainer import checkpoint
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import train


def written(job: "Job", folder: ResultsFolder) -> int | None:
    """When a job's record was written, in nanoseconds; None if there is none."""
    try:
        return job.record(folder).stat().st_mtime_ns
    except FileNotFoundError:
        return None


@dataclass(frozen=True)
class RunJob:
    """A run to train; `MeasureJob` has the same attributes and methods."""

    config: RunConfig

    measure = None

    @property
    def name(self) -> str:
        """Name for logs and summaries."""
        return self.config.run_id

    @property
    def epochs(self) -> int:
        """Epochs the job is expected to train."""
        return self.config.epochs

    @property
    def runs(self) -> tuple[RunConfig, ...]:
        """The runs whose weights are there after it."""
        return (self.config,)

    def record(self, folder: ResultsFolder) -> Path:
        """File of the record the job writes."""
        return folder.runs / f"{self.config.run_id}.json"

    def reads(self, folder: ResultsFolder) -> Sequence[Path]:
        """Files of the folder the job reads, where they exist."""
        return ()

    def run(self, folder: ResultsFolder, log: Journal, device: str, data_dir: Path | None) -> None:
        """Train the run; write its weights, then its record."""
        run_id = self.config.run_id
        result = train(
            self.config,
            device=device,
            data_dir=data_dir,
            weights=folder.weights(run_id),
            checkpoints=folder.checkpoint(run_id),
            on_epoch=log.epoch,
        )
        store.write(folder.runs, result)
        checkpoint.discard(folder.checkpoint(run_id))
        log.end(result)


Job = RunJob | MeasureJob

ATTEMPTS = 3  # of a run whose worker died

# How much of a GPU a run takes, network by network. Small networks on small images are a queue of
# short kernels that leaves most of a GPU idle. By judgement, until `bench packing` has measured it
# on a GPU. A network that is not here takes a whole one.
GPU_SHARE = {
    "wrn28_10": 1.0,
    "resnet50": 1.0,
    "vit_s32": 1.0,
    "vit_s": 0.5,
    "vit_t": 0.5,
    "vit_t_dyt": 0.5,
    "wrn16_4": 0.5,
    "resnext29_32x4d": 0.5,
    "resnet56": 0.25,
    "wrn10_4_patch4": 0.25,
    "wrn10_8_patch4": 0.25,
    "resnet10_4_patch4": 0.25,
    "resnet8": 0.25,
    "resnext11_4x2d": 0.25,
    "wrn10_1": 0.25,
    "vit_mini": 0.25,
    "vit_micro": 0.25,
    "vit_micro_dyt": 0.25,
}


def gpu_share(job: Job) -> float:
    """Share of a GPU that a job takes, by its network."""
    return GPU_SHARE.get(job.config.model, 1.0)


@dataclass
class Outcome:
    """Outcome of some jobs, by name: done, failed with their reasons, not started."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def run_job(job: Job, folder: ResultsFolder, device: str, data_dir: Path | None) -> str | None:
    """Train or measure one run and write its record; returns the reason of a failure, or None."""
    with Journal(folder, job.name, job.config, device) as log:
        try:
            job.run(folder, log, device, data_dir)
        except DiskError as error:
            log.stamp(f"stopped: {error}")
            raise  # no other run could be kept, either
        except SamlibError as error:
            log.stamp(f"failed: {error}")
            return str(error)
        except Exception as error:
            log.stamp(f"failed\n{traceback.format_exc()}")
            return f"{type(error).__name__}: {first_line(error)}"
    return None
