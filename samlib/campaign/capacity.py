"""Whether a machine has the disk and the memory for some runs, asked before they begin.

Both needs are counted low, without activations, records and logs: what they refuse would hardly
work, and what they let through still may not.
"""

import functools
import shutil
from collections.abc import Sequence

import psutil
import torch

from samlib import models
from samlib.campaign.jobs import Job, RunJob
from samlib.data.info import INFO
from samlib.errors import ConfigError
from samlib.records.results_folder import ResultsFolder
from samlib.trainer.build import build_model
from samlib.trainer.config import RunConfig

_FLOAT = 4  # bytes
_PROGRAM = 300e6  # bytes of a process that has loaded PyTorch and nothing else
_STATES = 4  # weights, their gradients, momentum, and what an ascent keeps or augmentation makes


@functools.cache
def _parameters(model: str, dataset: str) -> int:
    with torch.device("meta"):
        return models.count(build_model(RunConfig(dataset=dataset, model=model)).parameters())


def disk_needed(jobs: Sequence[Job], workers: int) -> float:
    """Bytes of the final weights of every run, and of two checkpoints per worker."""
    sizes = [
        _FLOAT * _parameters(job.config.model, job.config.dataset)
        for job in jobs
        if isinstance(job, RunJob)
    ]
    checkpoints = 2 * 2 * max(sizes, default=0) * min(workers, len(sizes))  # weights and momentum
    return sum(sizes) + checkpoints


def memory_needed(jobs: Sequence[Job], workers: int) -> float:
    """Bytes of the workers and of the process that leads them, which has read the images, too.

    A worker has the program, the images of its data set, those of its splits once more, those it
    trains on as they are augmented, and the network's states.
    """

    def images(config: RunConfig) -> tuple[float, float]:
        info = INFO[config.dataset]
        if info.folders:
            return 0.0, 0.0
        everything = info.train_count + info.test_count
        held = info.train_count if config.train_size is None else config.train_size
        pixels = info.channels * info.image_size**2
        return everything * pixels, (info.test_count + 2 * held) * pixels

    def of(job: Job) -> float:
        states = _STATES * _FLOAT * _parameters(job.config.model, job.config.dataset)
        return _PROGRAM + sum(images(job.config)) + states

    leader = max((_PROGRAM + images(job.config)[0] for job in jobs), default=0.0)
    return leader + max(map(of, jobs), default=0.0) * min(workers, len(jobs))


def check(jobs: Sequence[Job], folder: ResultsFolder, workers: int, device: str) -> None:
    """Refuse jobs for which this machine cannot have room.

    Args:
        jobs: what is to be run, now and later.
        folder: where records and weights go.
        workers: processes at a time.
        device: where they compute; the memory of a GPU is not looked at.

    Raises:
        ConfigError: too little disk is free, or too little memory is available.
    """
    weights = folder.weights("").parent  # may lie on a disk of its own
    place = next(p for p in (weights, *weights.parents) if p.exists())
    needed, free = disk_needed(jobs, workers), shutil.disk_usage(place).free
    if needed > free:
        raise ConfigError(
            f"{len(jobs)} jobs need about {_size(needed)} of disk and {place} has "
            f"{_size(free)} free: free some, or name another disk with --results"
        )
    needed, free = memory_needed(jobs, workers), psutil.virtual_memory().available
    if device == "cpu" and needed > free:
        raise ConfigError(
            f"{min(workers, len(jobs))} workers need about {_size(needed)} of memory and "
            f"{_size(free)} are available: take fewer with --workers (of make: WORKERS=)"
        )


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
