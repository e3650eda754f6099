"""One run: RunConfig -> result. Deterministic, resumable at epoch ends, honest about divergence."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from samlib.data.image_folders import FolderSplits, folder_splits
from samlib.data.info import INFO
from samlib.data.splits import Splits, make_splits
from samlib.errors import ConfigError
from samlib.models import is_vit
from samlib.provenance import provenance, source_digest
from samlib.trainer import checkpoint
from samlib.trainer.build import build_model
from samlib.trainer.config import RunConfig
from samlib.trainer.diagnostics import affine_measures, finite
from samlib.trainer.loop import Trainer


@contextmanager
def _deterministic(device: torch.device, seed: int) -> Iterator[None]:
    """One thread of the CPU, the caller's random state kept: equal runs give equal bits.

    On a GPU, where they need not, the fastest convolutions are chosen by trying; of the CPU it
    needs little, and runs that share it have their threads not fight for cores.
    """
    threads, tried = torch.get_num_threads(), torch.backends.cudnn.benchmark
    gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if gpu else []):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = gpu
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
    on_epoch: Callable[[Trainer], None] | None = None,
) -> dict:
    """Train one configuration and return the content of its record.

    Args:
        config: the run.
        device: a torch device; on "cpu" results repeat bit for bit. One thread of the CPU is used.
        data_dir: where data caches are; None is `datasets.default_data_dir()`.
        weights: file to write the final weights to.
        checkpoints: file to resume from, if it exists, and to write to at epoch ends.
        checkpoint_seconds: least time between two checkpoints.
        on_epoch: called after every epoch.

    Returns:
        The content of the record, ready for JSON; its file has a format's number and a checksum
        beside it (`records.store`). Accuracies are in percent, times in seconds, shares from 0 to
        1. None stands for what was not taken or is not finite.

        - `run_id`, `config`: the name of the run, and `RunConfig.to_dict`.
        - `status`: completed or diverged; `diverged_epoch` is counted from 0, None if completed.
        - `test_accuracy`, `validation_accuracy`: after the last epoch; `best_test_accuracy` is the
          largest of all epochs.
        - `curves`: by name a value per epoch. `train_loss` and `train_accuracy` are means of what
          the steps computed first, at w + eps in steps of one pass; `validation_accuracy` and
          `test_accuracy` follow the epoch, and `weight_norm` is ||w|| outside the norm layers.
          `norm_share` and `gradient_share` are the norm layers' share of ||eps||^2 and of
          ||T g||^2 in the epoch's first step that may be perturbed, None if it was not.
        - `mask`: `count` of perturbed and `total` of trainable coordinates; None without a mask.
        - `measures`: gamma and beta at the end (`diagnostics.affine_measures`), each tensor's share
          of ||T g||^2 (`tensor_shares`), and the `recalibrated_test_accuracy`.
        - `provenance`: code, versions and hardware (`provenance.provenance`, `result_of`).
        - `times`: `wall` of this call, and `epochs`, one of each epoch.

    Raises:
        ConfigError: the device is missing, or the configuration does not fit the data.
        DataMissing: the data set is not on disk.
        DiskError: weights or checkpoints cannot be written.
    """
    if not isinstance(config, RunConfig):
        raise ConfigError(f"train takes a RunConfig, not a {type(config).__name__}")
    started = time.perf_counter()
    with begun(config, device=device, data_dir=data_dir) as run:
        resume(run, checkpoint.load(checkpoints) if checkpoints else None)
        until_done(run, checkpoints, checkpoint_seconds, on_epoch)
        if weights is not None:
            checkpoint.save_final(weights, run.model.state_dict())
        result = result_of(run)
    return result | {"times": {"wall": time.perf_counter() - started, "epochs": run.seconds}}


def resume(run: Trainer, state: dict | None) -> None:
    """Continue from a checkpoint of this run; one of other code is named and not used."""
    if state is None or state["run_id"] != run.config.run_id:
        return
    if state["source"] != source_digest():  # other code must not finish what we began
        warnings.warn(
            f"the checkpoint of {run.config.run_id} is of other code (code {state['source'][:10]}) "
            "and is not used: the run begins anew",
            stacklevel=2,
        )
        return
    run.load_state_dict(state)


def until_done(
    run: Trainer,
    checkpoints: Path | None,
    checkpoint_seconds: float,
    on_epoch: Callable[[Trainer], None] | None,
) -> None:
    """Train a run from its current epoch until it ends or diverges; arguments as in `train`."""
    saved = time.monotonic()
    while run.epoch < run.config.epochs and not run.diverged:
        begun = time.perf_counter()
        run.train_epoch()
        run.evaluate()
        run.seconds.append(time.perf_counter() - begun)
        if on_epoch is not None:
            on_epoch(run)
        due = time.monotonic() - saved >= checkpoint_seconds
        if checkpoints and due and not run.diverged and run.epoch < run.config.epochs:
            checkpoint.save(checkpoints, run.state_dict())
            saved = time.monotonic()


def _begin(config: RunConfig, where: torch.device, data_dir: Path | None) -> Trainer:
    sizes = {"train_size": config.train_size, "validation_size": config.validation_size}
    common: dict[str, Any] = {"seed": config.seed, "device": where, "data_dir": data_dir} | sizes
    if INFO[config.dataset].folders:
        if config.label_noise:
            raise ConfigError(f"{config.dataset} takes no label noise")
        splits: Splits | FolderSplits = folder_splits(config.dataset, **common)
    else:
        splits = make_splits(config.dataset, label_noise=config.label_noise, **common)
    model = build_model(config).to(where)
    if not is_vit(config.model):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Trainer(config, model, splits, where, data_dir)


@contextmanager
def begun(
    config: RunConfig, *, device: str = "cpu", data_dir: Path | None = None
) -> Iterator[Trainer]:
    """A run before its first epoch, on one thread; arguments as in `train`."""
    where = usable_device(device)
    with _deterministic(where, config.seed):
        yield _begin(config, where, data_dir)


@contextmanager
def restored(
    config: RunConfig, weights: dict, *, device: str = "cpu", data_dir: Path | None = None
) -> Iterator[Trainer]:
    """A finished run with its final weights, for measurements.

    Inside the block, as in `train`, one thread is used and on the CPU results repeat bit for bit.

    Args:
        config: the run.
        weights: the network's state_dict that `train` wrote.
        device, data_dir: as in `train`.
    """
    with begun(config, device=device, data_dir=data_dir) as run:
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
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        valid = ", ".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
        raise ConfigError(f"there is no GPU {device.index} here; valid: {valid}")
    return device


def tensor_shares(run: Trainer) -> dict[str, float | None]:
    """Mean over epochs of each tensor's share of ||T g||^2, where everything is perturbed.

    From these the law of the study predicts rho for every mask of whole tensors (`study.law`).
    """
    mask = run.perturbation.mask if run.perturbation else None
    if mask is None or not run.tensor_shares or mask.count < mask.total:
        return {}
    mean = torch.stack(run.tensor_shares).double().nanmean(0).tolist()
    return {e.name: finite(share) for e, share in zip(mask.entries, mean, strict=True)}


def result_of(run: Trainer) -> dict:
    """Content of a finished run's record, without its times.

    `replayed` in its provenance is `Trainer.replays`; `resumed_from` are the machines and PyTorch
    releases that trained its first epochs, where those are not the last ones.
    """
    *earlier, _ = run.places
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
        | {"tensor_shares": tensor_shares(run)}
        | {"recalibrated_test_accuracy": run.recalibrated_accuracy()},
        "provenance": provenance(str(run.device))
        | {"replayed": run.replays}
        | ({"resumed_from": earlier} if earlier else {}),
    }
