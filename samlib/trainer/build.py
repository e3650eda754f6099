"""From a RunConfig to the objects a run is made of: network, optimizer, perturbation."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from samlib import models
from samlib.data.info import INFO
from samlib.sam import family, geometry
from samlib.sam.masks.by_name import MASKS
from samlib.sam.masks.whole import no_norm, only_norm
from samlib.trainer.config import NO_PERTURBATION, RunConfig


def build_model(config: RunConfig) -> nn.Module:
    """The configured network; its weights depend on the seed alone, not on the method."""
    info = INFO[config.dataset]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return models.build(
            config.model,
            num_classes=info.classes,
            in_channels=info.channels,
            image_size=info.image_size,
        )


def build_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The base optimizer; weight decay acts on every parameter, as in the authors' code.

    The two controls leave the norm layers' parameters out, of the decay or of the update; they
    stay in the optimizer, so that it zeroes their gradients.
    """
    optimizer = _optimizer(config, model)
    clip_gradients(optimizer, model, config.clip_norm)
    return optimizer


def clip_gradients(optimizer: torch.optim.Optimizer, model: nn.Module, norm: float) -> None:
    """Register a hook that clips the descent gradient, over all parameters, before each step.

    Args:
        optimizer: optimizer of the model.
        model: model whose gradients are clipped.
        norm: largest norm of the gradient; 0 does not clip.
    """
    parameters = list(model.parameters())

    def clip(*_: object) -> None:
        clip_grad_norm_(parameters, norm, foreach=True)

    if norm:
        optimizer.register_step_pre_hook(clip)


def _optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    parameters: Iterable = model.parameters()
    if (config.updated, config.decayed) != ("all", "all"):
        norm = {"params": [e.parameter for e in only_norm(model).entries], "weight_decay": 0.0}
        if config.updated == "no_norm":
            norm["lr"] = 0.0
        parameters = [{"params": [e.parameter for e in no_norm(model).entries]}, norm]
    if config.optimizer == "adamw":
        # Its count of steps on the device: on the host a recorded step could not advance it.
        capturable = any(p.is_cuda for p in model.parameters())
        return torch.optim.AdamW(parameters, foreach=True, capturable=capturable, **common)
    if config.optimizer == "lion":
        from timm.optim import Lion

        return Lion(parameters, foreach=True, **common)
    return torch.optim.SGD(parameters, momentum=config.momentum, foreach=True, **common)


def continue_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a state_dict, on the CPU, that may have been written from another device.

    `capturable` belongs to the device, not to the run, and decides where AdamW's step count lives.
    """
    groups = [
        group | {name: mine[name] for name in mine.keys() & {"capturable"}}
        for group, mine in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict(state | {"param_groups": groups})


def build_scheduler(
    config: RunConfig, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate epoch by epoch: a linear rise over the warm-up, then a cosine to 0.

    Epoch e of w warm-up epochs trains with (e + 1) / w of `lr`; without any, the authors' cosine.
    """
    epochs, warmup = config.epochs, config.warmup_epochs
    if not warmup:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)

    def factor(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / warmup
        return (1 + math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def build_stepper(
    config: RunConfig, model: nn.Module, steps: int, logits: Callable[[], Tensor]
) -> family.Stepper | None:
    """The configured member of the family; None for the base optimizer alone.

    Args:
        config: of the run.
        model: its network.
        steps: of the whole run.
        logits: forward pass on one batch of the whole run, for the member that wants one.
    """
    if config.geometry == NO_PERTURBATION:
        return None
    setting = family.Setting(
        # A stream of its own: what a member draws must not shift batches or augmentation.
        seed=config.seed + 3_000_003,
        lr=config.lr,
        steps=steps,
        epochs=config.epochs,
        logits=logits,
    )
    return family.make(
        config.member,
        geometry.by_name(config.geometry, config.eta),
        config.rho,
        MASKS[config.mask](model, config),
        setting,
        radius_over=config.radius_over,
        batchnorm=config.batchnorm,
        start=config.start,
        end=config.end,
    )
