"""One run over several GPUs: data parallel under torchrun, for networks and data that ask for it.

Every worker holds the whole network and sees its share of each batch. Gradients are averaged once
per step, after the descent pass. The ascent pass sends nothing where each worker perturbs for its
own share (m-sharpness with m the share), or averages the masked gradients alone where the
perturbation is synchronised, which is the step of one process on the whole batch. BatchNorm
normalises each worker's share; its running statistics are averaged at the end of every epoch.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from samlib.data.image_folders import FolderSplits, batches
from samlib.errors import ConfigError, choose
from samlib.trainer import checkpoint
from samlib.trainer import one_run as single
from samlib.trainer.config import RunConfig
from samlib.trainer.loop import Trainer
from samlib.trainer.process_group import Workers

PERTURBATIONS = ("worker", "synchronised")


class _Shard:
    """One worker's share of a run's splits: every count-th image of each batch."""

    def __init__(self, splits: Any, workers: Workers, batch_size: int):
        self.whole, self.workers = splits, workers
        self.share = 1.0 / workers.count  # of the batch at hand
        if batch_size < workers.count:
            raise ConfigError(
                f"batch_size is {batch_size}, fewer images than {workers.count} workers: choose a "
                "larger batch_size or fewer workers"
            )
        last = splits.count("train") % batch_size
        if 0 < last < workers.count:
            raise ConfigError(
                f"the last batch of an epoch has {last} images, fewer than {workers.count} "
                "workers: choose another batch_size or train_size"
            )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def _mine(self, found: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        mine = slice(self.workers.rank, None, self.workers.count)
        for images, labels in found:
            self.share = len(labels[mine]) / len(labels)
            yield images[mine], labels[mine]

    def train_batches(
        self, augmentation: str, size: int, order: Generator, draws: Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This worker's share of each training batch."""
        if isinstance(self.whole, FolderSplits):
            yield from self._decoded(augmentation, size, order, draws)
        else:
            yield from self._mine(self.whole.train_batches(augmentation, size, order, draws))

    def _decoded(
        self, augmentation: str, size: int, order: Generator, draws: Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The same batches, without decoding the other workers' images."""
        rank, count = self.workers.rank, self.workers.count
        epoch = int(torch.randint(2**62, (), generator=draws))
        shuffled = torch.randperm(self.whole.count("train"), generator=order)
        parts = [(batch[rank::count], len(batch)) for batch in shuffled.split(size)]
        files = self.whole.augmented(augmentation, epoch)
        mine = [part.tolist() for part, _ in parts]
        found = batches(files, mine, self.whole.device)
        for (images, labels), (_, whole) in zip(found, parts, strict=True):
            self.share = len(labels) / whole
            yield images, labels

    def plain_batches(
        self, split: str, size: int, most: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This worker's share of each batch of a split."""
        yield from self._mine(self.whole.plain_batches(split, size, most))


class ParallelTrainer(Trainer):
    """A run whose batches are shared among workers; see `train_distributed`."""

    def __init__(self, run: Trainer, workers: Workers, perturbation: str):
        self.workers, self.kind = workers, perturbation
        self.shard = _Shard(run.splits, workers, run.config.batch_size)
        here = run.device, run.data_dir
        super().__init__(run.config, run.model, self.shard, *here)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stepper is None:
            return
        if self.kind == "synchronised":
            self.stepper = self.stepper.averaged(self._average)
        elif self.config.mask == "dynamic":
            raise ConfigError(
                "SSAM-D drops coordinates by their gradient: with more than one worker its "
                "perturbation must be synchronised"
            )
        elif self.stepper.shared:
            raise ConfigError(
                f"member {self.config.member} goes on from gradients of the first pass: with more "
                "than one worker its perturbation must be synchronised"
            )

    @property
    def replays(self) -> bool | str:
        """Never: a step waits for other workers, and collectives are not captured."""
        return self._gpu and "steps of several workers are not recorded"

    def replayed(self, step: Callable[..., None]) -> Callable[..., None]:
        """The step itself: never a replayed one."""
        return step

    def backward(self, loss: Tensor) -> None:
        """The descent's backward pass on this worker's share; gradients become all workers' mean.

        The mean is taken before gradients are clipped.
        """
        super().backward(loss)
        self._average([p.grad for p in self.model.parameters() if p.grad is not None])

    def _average(self, grads: Sequence[Tensor]) -> None:
        self.workers.average(list(grads), self.shard.share)

    def train_epoch(self) -> None:
        """One epoch on this worker's shares; curves are those of the whole batches."""
        super().train_epoch()
        # `train_epoch` divides by the whole epoch's count, so that the workers' parts add up.
        loss, accuracy = self.curves["train_loss"][-1], self.curves["train_accuracy"][-1]
        lost = loss is None or self.diverged
        total, right, diverged = self.workers.total(0.0 if lost else loss, accuracy, float(lost))
        self.diverged = diverged > 0
        self.curves["train_loss"][-1] = None if self.diverged else total
        self.curves["train_accuracy"][-1] = right
        buffers = [b for b in self.model.buffers() if b.is_floating_point()]
        if buffers:
            self.workers.average(buffers, 1 / self.workers.count)

    def _percent(self, right: float, count: int) -> float:
        all_right, all_count = self.workers.total(right, count)
        return 100 * all_right / all_count

    def recalibrated_accuracy(self) -> float | None:
        """None: workers do not measure it."""
        return None

    @property
    def among(self) -> dict:
        """Number of workers and kind of perturbation, as in the record."""
        return {"workers": self.workers.count, "perturbation": self.kind}


def train_distributed(
    config: RunConfig,
    workers: Workers,
    *,
    perturbation: str = "worker",
    data_dir: Path | None = None,
    weights: Path | None = None,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 600.0,
    on_epoch: Callable[[Trainer], None] | None = None,
) -> dict:
    """Train one configuration on all workers; every worker returns the record.

    Args:
        config: the run; its batch size is that of all workers together.
        workers: from `process_group.join`.
        perturbation: "worker" (each worker perturbs for its share) or "synchronised"; the record
            names the choice.
        data_dir, weights, checkpoints, checkpoint_seconds, on_epoch: as in `one_run.train`; files
            are written by the first worker, which alone calls `on_epoch`.

    Raises:
        ConfigError: as `one_run.train`, or a batch that cannot be shared.
        OtherWorkers: as `Trainer.load_state_dict`.
    """
    choose("perturbation", perturbation, PERTURBATIONS)
    started, first = time.perf_counter(), workers.rank == 0
    with single.begun(config, device=workers.device, data_dir=data_dir) as begun:
        run = ParallelTrainer(begun, workers, perturbation)
        found = checkpoint.load(checkpoints) if checkpoints and first else None
        state = workers.from_first(found)
        single.resume(run, state)
        # Only the first worker writes and reports.
        single.until_done(
            run,
            checkpoints if first else None,
            checkpoint_seconds,
            on_epoch if first else None,
        )
        if weights is not None and first:
            checkpoint.save_final(weights, run.model.state_dict())
        result = single.result_of(run)
    wall = time.perf_counter() - started
    return result | {"times": {"wall": wall, "epochs": run.seconds}, "parallel": run.among}
