"""The state of one run: an epoch of training, an evaluation, and the content of a checkpoint."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from samlib.data.image_folders import FolderSplits
from samlib.data.splits import Splits, normalize
from samlib.errors import ConfigError, SamlibError
from samlib.models import is_vit
from samlib.provenance import place, source_digest
from samlib.sam import family
from samlib.sam.ascent import Ascent
from samlib.sam.perturbation import Perturbation, Plan
from samlib.sam.step import sam_step
from samlib.trainer import cuda_graphs
from samlib.trainer.build import (
    build_optimizer,
    build_scheduler,
    build_stepper,
    continue_optimizer,
)
from samlib.trainer.config import RunConfig
from samlib.trainer.diagnostics import Shares, finite, recalibrated, shares, unsearched, weight_norm

_EVAL_BATCH = 2048
_RECALIBRATED = 50_000  # training images
CURVES = (
    *("train_loss", "train_accuracy", "validation_accuracy", "test_accuracy"),
    *("weight_norm", "norm_share", "gradient_share"),
)


class OtherWorkers(SamlibError):
    """A checkpoint of another number of workers, which cannot be resumed exactly."""


@dataclass
class Trainer:
    """The state of one run; see `one_run.train`."""

    config: RunConfig
    model: nn.Module
    splits: Splits | FolderSplits
    device: torch.device
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        config = self.config
        self.optimizer = build_optimizer(config, self.model)
        steps = config.epochs * math.ceil(self.splits.count("train") / config.batch_size)
        self.stepper = build_stepper(config, self.model, steps, self._fixed_logits)
        self.scheduler = build_scheduler(config, self.optimizer)
        # Drawn on the CPU, so that every device sees the same batches.
        self.order = torch.Generator().manual_seed(config.seed)
        self.draws = torch.Generator().manual_seed(config.seed + 1_000_003)
        # A stream of its own: what a mask scores must not shift the others' augmentation.
        self.scored = torch.Generator().manual_seed(config.seed + 2_000_003)
        self.curves: dict[str, list] = {name: [] for name in CURVES}
        self.tensor_shares: list[Tensor] = []  # of ||T g||^2, epoch by epoch
        self.seconds: list[float] = []
        self.places = [place(str(self.device))]  # the last one trains; a resumed run has had others
        self.diverged = False
        self._fixed: Tensor | None = None

    @property
    def perturbation(self) -> Perturbation | None:
        """The ascent step; None for the base optimizer alone."""
        return None if self.stepper is None else self.stepper.perturbation

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.seconds)

    @property
    def among(self) -> dict:
        """Number of workers and kind of perturbation: those that may continue a checkpoint."""
        return {"workers": 1, "perturbation": "worker"}

    @property
    def _gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def full_batches(self) -> int:
        """Number of full batches in an epoch."""
        return self.splits.count("train") // self.config.batch_size

    @property
    def replays(self) -> bool | str:
        """Whether an epoch's steps are replayed CUDA graphs; False on a CPU, elsewhere why not."""
        if self._gpu and self.stepper and not self.stepper.recordable:
            return f"steps of member {self.config.member} are not recorded"
        return cuda_graphs.status(self.full_batches, self.device)

    def replayed(self, step: Callable[..., None]) -> Callable[..., None]:
        """The step of an epoch in the form that is fastest here."""
        if self.stepper and not self.stepper.recordable:
            return step
        return cuda_graphs.replayed(step, self.full_batches, self.device)

    def inputs(self, images: Tensor) -> Tensor:
        """Network input from uint8 images: normalised, channels-last for convolutions."""
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
        self.model.train()
        if self.perturbation is not None:
            self.perturbation.mask.begin_epoch(self.epoch, self._sample)
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device)
        watched: list[Shares] = []
        step = self.step(loss_sum, correct, watched)
        steps: dict[Plan | None, Callable[..., None]] = {}  # those of one plan are one recording
        count = splits.count("train")
        for images, y in splits.train_batches(
            config.augment, config.batch_size, self.order, self.draws
        ):
            plan = None if self.stepper is None else self.stepper.plan(self.epoch)
            if plan not in steps:
                steps[plan] = self.replayed(partial(step, plan=plan))
            steps[plan](images, y)
        self.scheduler.step()
        mean_loss = loss_sum.item() / count
        # The loss is taken before the step, so the last one shows in the weights only.
        weights = weight_norm(self.model)
        self.diverged = not all(map(math.isfinite, (mean_loss, *weights)))
        # JSON has no NaN; a diverged epoch shows as null.
        self.curves["train_loss"].append(finite(mean_loss))
        self.curves["train_accuracy"].append(100 * correct.item() / count)
        self.curves["weight_norm"].append(finite(weights[0]))
        self._keep(watched)

    def _keep(self, watched: list[Shares]) -> None:
        """Keep the shares of an epoch's first step that may be perturbed, None if it was not."""
        found = watched[0] if watched else None
        self.curves["norm_share"].append(found and finite(found.of_eps.item()))
        self.curves["gradient_share"].append(found and finite(found.of_gradient.item()))
        if found:
            self.tensor_shares.append(found.by_tensor.cpu())

    def step(self, loss_sum: Tensor, correct: Tensor, watched: list[Shares]) -> Callable[..., None]:
        """This epoch's step on a batch of uint8 images and their labels, and perhaps its plan.

        Args:
            loss_sum, correct: scalars that every batch's losses and right answers are added to.
            watched: given the shares of the first perturbed step; a few reductions.
        """
        epoch = self.epoch
        first: list[Callable[[Ascent], None]] = []
        if self.perturbation is not None:
            mask = self.perturbation.mask
            first = [lambda found: watched.append(shares(mask, found))]
        taken = self.stepper or partial(sam_step, perturbation=None)

        def step(images: Tensor, y: Tensor, plan: Plan | None = None) -> None:
            x = self.inputs(images)
            seen: list[Tensor] = []

            def closure() -> Tensor | tuple[Tensor, Tensor]:
                logits = self.forward(x)
                if self.model.training:  # not what a source looks at in between
                    seen.append(logits.detach())
                return family.losses(self.stepper, logits, y, self.config.label_smoothing)

            perturbed = plan is None or plan.perturb is not False
            loss = taken(
                closure,
                self.optimizer,
                epoch=epoch,
                on_ascent=first.pop() if first and perturbed else None,
                backward=self.backward,
                plan=plan,
            )
            loss_sum.add_(loss * len(y))
            correct.add_((seen[0].argmax(1) == y).sum())

        return step

    def backward(self, loss: Tensor) -> None:
        """The descent's backward pass."""
        loss.backward()

    def _fixed_logits(self) -> Tensor:
        """Logits of one batch that stays the same for the whole run."""
        if self._fixed is None:
            draw = torch.Generator().manual_seed(self.config.seed + 4_000_003)
            images, _ = self.splits.sample(self.config.batch_size, self.config.augment, draw)
            self._fixed = self.inputs(images)
        return self.forward(self._fixed)

    def _sample(self, n: int) -> tuple[Tensor, Tensor]:
        """The first n examples of a fresh shuffle of the training set, augmented.

        Raises:
            ConfigError: there are fewer.
        """
        if n > (count := self.splits.count("train")):
            raise ConfigError(f"mask_samples {n:,} are more than the {count:,} training images")
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
        with unsearched():
            for images, labels in batches:
                correct += (self.forward(self.inputs(images)).argmax(1) == labels).sum()
                count += len(labels)
        return self._percent(correct.item(), count)

    def _percent(self, right: float, count: int) -> float:
        return 100 * right / count

    def recalibrated_accuracy(self) -> float | None:
        """Test accuracy with BatchNorm statistics of the final weights over the training images.

        At most the first 50,000 images, not augmented; None without running statistics.
        """
        plain = self.splits.plain_batches("train", self.config.batch_size, _RECALIBRATED)
        # A last batch of one image has no variance.
        batches = (self.inputs(images) for images, _ in plain if len(images) > 1)
        with recalibrated(self.model, batches) as any_statistics:
            return self.accuracy_on("test") if any_statistics else None

    def state_dict(self) -> dict:
        """The state from which a resumed run ends like an uninterrupted one."""
        return {
            "run_id": self.config.run_id,
            "source": source_digest(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "stepper": self.stepper and self.stepper.state_dict(),
            **{n: getattr(self, n).get_state() for n in ("order", "draws", "scored")},
            "global": torch.get_rng_state(),
            "on_device": torch.cuda.get_rng_state(self.device) if self._gpu else None,
            "curves": self.curves,
            "tensor_shares": self.tensor_shares,
            "seconds": self.seconds,
            "places": self.places,
            **self.among,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict`, with its tensors on the CPU, whatever device wrote it.

        Raises:
            OtherWorkers: the state is of another number of workers, or of the other kind of
                perturbation.
        """
        if any(state[name] != value for name, value in self.among.items()):
            by = f"{state['workers']} worker{'s' * (state['workers'] > 1)}"
            raise OtherWorkers(
                f"the checkpoint of {self.config.run_id} was written by {by}, perturbation "
                f"{state['perturbation']}: resume with the same number of workers and the same "
                "perturbation, or remove the checkpoint from the folder checkpoints"
            )
        self.model.load_state_dict(state["model"])
        continue_optimizer(self.optimizer, state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.stepper:
            self.stepper.load_state_dict(state["stepper"])
        for name in ("order", "draws", "scored"):
            getattr(self, name).set_state(state[name])
        torch.set_rng_state(state["global"])
        if self._gpu and state["on_device"] is not None:  # of a network that draws there
            torch.cuda.set_rng_state(state["on_device"], self.device)
        self.curves, self.seconds = state["curves"], state["seconds"]
        self.tensor_shares = state["tensor_shares"]
        now = self.places[-1]
        self.places = [*state["places"], *([] if state["places"][-1] == now else [now])]
