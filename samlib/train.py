"""One run: RunConfig -> result. Deterministic, resumable at epoch ends, honest about divergence."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import checkpoint
from .build import build_model, build_optimizer, build_perturbation, build_scheduler
from .config import RunConfig
from .data import INFO, Splits, make_splits, normalize
from .errors import ConfigError
from .folders import FolderSplits, folder_splits
from .graphs import replayed
from .measures import affine_measures, finite, recalibrated, share_recorder
from .models import is_vit
from .provenance import provenance, source_digest
from .sam import sam_step

_EVAL_BATCH = 2048
_RECALIBRATED = 50_000  # training images


@dataclass
class Run:
    """The moving parts of one run; see `train`."""

    config: RunConfig
    model: nn.Module
    splits: Splits | FolderSplits
    device: torch.device
    data_dir: Path | None = None

    def __post_init__(self):
        config = self.config
        self.optimizer = build_optimizer(config, self.model)
        self.perturbation = build_perturbation(config, self.model)
        self.scheduler = build_scheduler(config, self.optimizer)
        # Drawn on the CPU, so that every device sees the same batches.
        self.order = torch.Generator().manual_seed(config.seed)
        self.draws = torch.Generator().manual_seed(config.seed + 1_000_003)
        # A stream of its own: what a mask scores must not shift the others' augmentation.
        self.scored = torch.Generator().manual_seed(config.seed + 2_000_003)
        self.curves: dict[str, list] = {
            name: []
            for name in (
                "train_loss",
                "train_accuracy",
                "validation_accuracy",
                "test_accuracy",
                "norm_share",
            )
        }
        self.seconds: list[float] = []
        self.diverged = False

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.seconds)

    def replayed(self, step: Callable[..., None], steps: int) -> Callable[..., None]:
        """The step of an epoch of so many full batches, in the form that is fastest here."""
        return replayed(step, steps, self.device)

    def inputs(self, images: Tensor) -> Tensor:
        """uint8 images as the model takes them: normalised, convolutions channels-last."""
        x = normalize(images, self.splits.info)
        return x if is_vit(self.config.model) else x.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Logits in float32, (n, classes)."""
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return self.model(x).float()

    def train_epoch(self) -> None:
        """One epoch; sets `diverged` if a loss or a weight is not finite."""
        config, splits = self.config, self.splits
        epoch = self.epoch
        self.model.train()
        if self.perturbation is not None:
            self.perturbation.mask.begin_epoch(epoch, self._sample)
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device)
        share: list[Tensor] = []
        # The diagnostic costs a few reductions, so it looks at the first step of an epoch.
        watch = [share_recorder(self.perturbation, share)] if self.perturbation else []

        def step(images: Tensor, y: Tensor) -> None:
            x = self.inputs(images)
            seen: list[Tensor] = []

            def closure() -> Tensor:
                logits = self.forward(x)
                seen.append(logits.detach())
                return F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)

            on_eps = watch.pop() if watch else None
            loss = sam_step(closure, self.optimizer, self.perturbation, epoch=epoch, on_eps=on_eps)
            loss_sum.add_(loss * len(y))
            correct.add_((seen[0].argmax(1) == y).sum())

        size, count = config.batch_size, splits.count("train")
        step = self.replayed(step, count // size)
        for images, y in splits.train_batches(config.augment, size, self.order, self.draws):
            step(images, y)
        self.scheduler.step()
        mean_loss = loss_sum.item() / count
        # The loss is taken before the step, so the last one shows in the weights only.
        weights = torch.stack(torch._foreach_norm(list(self.model.parameters()))).sum().item()
        self.diverged = not (math.isfinite(mean_loss) and math.isfinite(weights))
        # JSON has no NaN; a diverged epoch shows as null.
        self.curves["train_loss"].append(finite(mean_loss))
        self.curves["train_accuracy"].append(100 * correct.item() / count)
        self.curves["norm_share"].append(finite(share[0].item()) if share else None)

    def _sample(self, n: int) -> tuple[Tensor, Tensor]:
        """The first n examples of a fresh shuffle of the training set, augmented."""
        images, labels = self.splits.sample(n, self.config.augment, self.scored)
        return self.inputs(images), labels

    def evaluate(self) -> None:
        """Append validation and test accuracy, in percent.

        None where there is no validation split, and at epochs between two evaluations.
        """
        done = self.epoch + 1
        due = done % self.config.eval_every == 0 or done == self.config.epochs or self.diverged
        for split in ("validation", "test"):
            wanted = due and self.splits.count(split)
            self.curves[f"{split}_accuracy"].append(self.accuracy_on(split) if wanted else None)

    def accuracy_on(self, split: str) -> float:
        """Accuracy in percent on validation or test, in evaluation mode."""
        return self._accuracy(self.splits.plain_batches(split, _EVAL_BATCH))

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Accuracy in percent on uint8 images, in evaluation mode."""
        parts = images.split(_EVAL_BATCH), labels.split(_EVAL_BATCH)
        return self._accuracy(zip(*parts, strict=True))

    @torch.no_grad()
    def _accuracy(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        self.model.eval()
        correct, count = torch.zeros((), dtype=torch.int64, device=self.device), 0
        for images, labels in batches:
            correct += (self.forward(self.inputs(images)).argmax(1) == labels).sum()
            count += len(labels)
        return 100 * correct.item() / count

    def recalibrated_accuracy(self) -> float | None:
        """Test accuracy with BatchNorm statistics of the final weights over the training images.

        As they are, without augmentation, at most the first 50,000; None for a network without
        running statistics.
        """
        plain = self.splits.plain_batches("train", self.config.batch_size, _RECALIBRATED)
        # A last batch of one image has no variance.
        batches = (self.inputs(images) for images, _ in plain if len(images) > 1)
        with recalibrated(self.model, batches) as any_statistics:
            return self.accuracy_on("test") if any_statistics else None

    def state_dict(self) -> dict:
        """Everything a resumed run needs to end as an uninterrupted one."""
        mask = self.perturbation.mask.state_dict() if self.perturbation else {}
        return {
            "run_id": self.config.run_id,
            "source": source_digest(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "mask": mask,
            "order": self.order.get_state(),
            "draws": self.draws.get_state(),
            "scored": self.scored.get_state(),
            "global": torch.get_rng_state(),
            "curves": self.curves,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.perturbation and state["mask"]:
            self.perturbation.mask.load_state_dict(state["mask"])
        self.order.set_state(state["order"])
        self.draws.set_state(state["draws"])
        self.scored.set_state(state["scored"])
        torch.set_rng_state(state["global"])
        self.curves, self.seconds = state["curves"], state["seconds"]


@contextmanager
def _deterministic(device: torch.device, seed: int) -> Iterator[None]:
    """One thread on the CPU, the caller's random state kept: equal runs give equal bits.

    On a GPU, where they need not, the fastest convolutions are chosen by trying.
    """
    threads, tried = torch.get_num_threads(), torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if device.type == "cpu":
            torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = device.type == "cuda"
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.backends.cudnn.benchmark = tried


def train(
    config: RunConfig,
    *,
    device: str = "cpu",
    data_dir: Path | None = None,
    weights: Path | None = None,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_epoch: Callable[[Run], None] | None = None,
) -> dict:
    """Train one configuration and return what its record holds (see `records`).

    Args:
        config: the run.
        device: a torch device; on "cpu" one thread is used and results repeat bit for bit.
        data_dir: where data caches are; None is `data.default_data_dir()`.
        weights: file to write the final weights to.
        checkpoints: file to resume from if it is there and to write to at epoch ends.
        checkpoint_seconds: least time between two checkpoints.
        on_epoch: called after every epoch.

    Raises:
        ConfigError: the device is not there, or the configuration does not fit the data.
        DataMissing: the data set is not on disk.
        DiskError: weights or checkpoints cannot be written.
    """
    where = usable_device(device)
    started = time.perf_counter()
    with _deterministic(where, config.seed):
        run = _begin(config, where, data_dir)
        state = checkpoint.load(checkpoints) if checkpoints else None
        ours = (config.run_id, source_digest())  # other code must not finish what we began
        if state is not None and (state["run_id"], state["source"]) == ours:
            run.load_state_dict(state)
        saved = time.monotonic()
        while run.epoch < config.epochs and not run.diverged:
            begun = time.perf_counter()
            run.train_epoch()
            run.evaluate()
            run.seconds.append(time.perf_counter() - begun)
            if on_epoch is not None:
                on_epoch(run)
            due = time.monotonic() - saved >= checkpoint_seconds
            if checkpoints and due and not run.diverged and run.epoch < config.epochs:
                checkpoint.save(checkpoints, run.state_dict())
                saved = time.monotonic()
        if weights is not None:
            checkpoint.save(weights, run.model.state_dict())
        result = result_of(run)
    return result | {"times": {"wall": time.perf_counter() - started, "epochs": run.seconds}}


def _begin(config: RunConfig, where: torch.device, data_dir: Path | None) -> Run:
    sizes = {"train_size": config.train_size, "validation_size": config.validation_size}
    common = {"seed": config.seed, "device": where, "data_dir": data_dir} | sizes
    if INFO[config.dataset].folders:
        if config.label_noise:
            raise ConfigError(f"{config.dataset} takes no label noise")
        splits = folder_splits(config.dataset, **common)
    else:
        splits = make_splits(config.dataset, label_noise=config.label_noise, **common)
    model = build_model(config).to(where)
    if not is_vit(config.model):
        model = model.to(memory_format=torch.channels_last)
    return Run(config, model, splits, where, data_dir)


@contextmanager
def restored(
    config: RunConfig, weights: dict, *, device: str = "cpu", data_dir: Path | None = None
) -> Iterator[Run]:
    """A finished run as it was at its end: for whatever is measured on its final weights.

    Inside the block, as in `train`, one thread is used on the CPU and results repeat bit for bit.

    Args:
        config: the run.
        weights: the network's state_dict that `train` wrote.
        device, data_dir: as in `train`.
    """
    where = usable_device(device)
    with _deterministic(where, config.seed):
        run = _begin(config, where, data_dir)
        run.model.load_state_dict(weights)
        run.model.eval()
        yield run


def usable_device(name: str) -> torch.device:
    """The torch device of that name.

    Raises:
        ConfigError: no such device, or no GPU here.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}; valid: cpu, cuda, cuda:<number>") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported; valid: cpu, cuda, cuda:<number>")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA GPU is available here; use --device cpu")
    return device


def result_of(run: Run) -> dict:
    """What the record of a finished run holds, its times aside."""
    curves, mask = run.curves, run.perturbation.mask if run.perturbation else None
    return {
        "run_id": run.config.run_id,
        "config": run.config.to_dict(),
        "status": "diverged" if run.diverged else "completed",
        "diverged_epoch": run.epoch - 1 if run.diverged else None,
        "test_accuracy": curves["test_accuracy"][-1],
        "best_test_accuracy": max(a for a in curves["test_accuracy"] if a is not None),
        "validation_accuracy": curves["validation_accuracy"][-1],
        "curves": curves,
        "mask": mask and {"count": mask.count, "total": mask.total},
        "measures": affine_measures(run.model)
        | {"recalibrated_test_accuracy": run.recalibrated_accuracy()},
        "provenance": provenance(str(run.device)),
    }
