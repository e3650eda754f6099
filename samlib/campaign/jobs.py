"""One job of a campaign: a run to train or a measurement to take, and its record written.

The worker writes the record itself, so that a finished run is on disk whatever happens to
anybody else.
"""

import traceback
from dataclasses import dataclass, field
from pathlib import Path

from samlib.errors import SamlibError
from samlib.files import DiskError
from samlib.measures.measurement import MeasureJob, measure
from samlib.records import journal, store
from samlib.records.results_folder import ResultsFolder
from samlib.trainer import checkpoint
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import train

Job = RunConfig | MeasureJob

ATTEMPTS = 3  # of a run whose worker died

# How much of a GPU a run takes. Small networks on small images are a queue of short kernels that
# leaves most of a GPU idle; whatever is not named here has one to itself. By judgement, until
# `bench packing` has measured it on a GPU.
GPU_SHARE = {
    "vit_s": 0.5,
    "vit_t": 0.5,
    "wrn16_4": 0.5,
    "resnext29_32x4d": 0.5,
    "resnet56": 0.25,
    "resnet8": 0.25,
    "resnext11_4x2d": 0.25,
    "wrn10_1": 0.25,
    "vit_micro": 0.25,
}


def gpu_share(job: Job) -> float:
    """How much of a GPU a job takes, by the network it trains or measures."""
    model = (job.config if isinstance(job, MeasureJob) else job).model
    return GPU_SHARE.get(model, 1.0)


@dataclass
class Outcome:
    """What became of the runs handed to `execute`: ids done, reasons by id, ids not started."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def one_job(
    job: Job, campaign: ResultsFolder, device: str, data_dir: Path | None, keep_weights: bool
) -> str | None:
    """Train or measure one run and write its record; returns why it failed, or None."""
    run_id = job.run_id
    config = job.config if isinstance(job, MeasureJob) else job
    with journal.Journal(campaign, run_id, config, device) as log:
        try:
            if isinstance(job, MeasureJob):
                measure(job, campaign, device=device, data_dir=data_dir, on_epoch=log.epoch)
                log.stamp("measured")
                return None
            result = train(
                job,
                device=device,
                data_dir=data_dir,
                weights=campaign.weights(run_id) if keep_weights else None,
                checkpoints=campaign.checkpoint(run_id),
                on_epoch=log.epoch,
            )
            store.write(campaign.runs, result)
            checkpoint.discard(campaign.checkpoint(run_id))
            log.end(result)
        except DiskError as error:
            log.stamp(f"stopped: {error}")
            raise  # no other run could be kept, either
        except SamlibError as error:
            log.stamp(f"failed: {error}")
            return str(error)
        except Exception as error:
            log.stamp(f"failed\n{traceback.format_exc()}")
            return f"{type(error).__name__}: {error}".split("\n", 1)[0]
    return None
