"""RunConfig: everything that decides a run, and the run's id."""

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass

from samlib import models
from samlib.data import augment, info
from samlib.errors import ConfigError, choose
from samlib.sam import family
from samlib.sam.geometry import GEOMETRIES, by_name
from samlib.sam.masks.by_name import MASKS

OPTIMIZERS = ("sgd", "adamw", "lion")
SPARSE = ("random", "random_redrawn", "fisher", "dynamic")  # masks that take a sparsity
PRECISIONS = ("fp32", "bf16")
NO_PERTURBATION = "none"

# The least and the largest value of every number.
RANGES = {
    "seed": (0, 2**32 - 1),
    "rho": (0, math.inf),
    "eta": (0, math.inf),
    "sparsity": (0, 1),
    "mask_every": (1, math.inf),
    "mask_samples": (1, math.inf),
    "start": (0, math.inf),
    "end": (0, math.inf),
    "train_size": (1, math.inf),
    "validation_size": (0, math.inf),
    "label_noise": (0, 1),
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "lr": (0, math.inf),
    "momentum": (0, math.inf),
    "weight_decay": (0, math.inf),
    "label_smoothing": (0, 1),
    "eval_every": (1, math.inf),
    "warmup_epochs": (0, math.inf),
    "clip_norm": (0, math.inf),
}
_EXCLUDED = (("lr", 0), ("sparsity", 1))  # bounds that are no values themselves


@dataclass(frozen=True)
class RunConfig:
    """One training run, fully described; equal configurations give equal results.

    Attributes:
        dataset: name of the data set.
        model: name of the network.
        seed: fixes split, label noise, initial weights, batch order and augmentation alike for
            every method, which makes comparisons paired.
        geometry: a variant of `samlib.geometry` (l2 is SAM), or none for the base optimizer alone.
        mask: which coordinates the ascent moves: all, only_norm (SAM-ON), no_norm, ...
        rho: radius of the ascent step.
        eta: stabiliser of the geometry; None is the variant's default.
        sparsity: of random, fisher and dynamic masks, share that is not moved; None keeps as many
            coordinates as the norm layers have.
        mask_every: epochs between two updates of SSAM-F or SSAM-D.
        mask_samples: examples that SSAM-F scores.
        radius_over: the norm in the ascent runs over the mask, or over all coordinates.
        batchnorm: running statistics follow both passes, or the first alone.
        start: first epoch with an ascent, counted from 0.
        end: first epoch without one again; None is never.
        train_size: training images; None is all that validation leaves.
        validation_size: images held out of training, or of everything where there is no official
            test set.
        label_noise: share of the training labels drawn anew.
        augment: none, shift, basic (crop and flip), autoaugment, or inception for folders.
        epochs: of the run.
        batch_size: images in a batch.
        optimizer: the base optimizer: sgd, adamw or lion.
        lr: largest learning rate; it falls to 0 as a cosine, stepped per epoch.
        momentum: of sgd.
        weight_decay: of the base optimizer.
        label_smoothing: of the training loss.
        precision: fp32, or bf16 autocast over fp32 weights.
        eval_every: epochs between evaluations; the last epoch always has one.
        warmup_epochs: epochs in which the learning rate rises linearly.
        clip_norm: largest norm of the descent gradient; 0 does not clip.
        updated: all, or no_norm: the norm layers' affine parameters stay as they began.
        decayed: all, or no_norm: the norm layers' affine parameters are not decayed.
        member: of `samlib.sam.family`: sam or a relative of it.

    Raises:
        ConfigError: an unknown name (the valid ones are listed), a value out of range, or a part of
            the perturbation that would change nothing.
    """

    dataset: str = "digits"
    model: str = "wrn10_1"
    seed: int = 0
    # the ascent step
    geometry: str = NO_PERTURBATION
    mask: str = "all"
    rho: float = 0.0
    eta: float | None = None
    sparsity: float | None = None
    mask_every: int = 5
    mask_samples: int = 1024
    radius_over: str = "mask"
    batchnorm: str = "both"
    start: int = 0
    end: int | None = None
    # data
    train_size: int | None = None
    validation_size: int = 0
    label_noise: float = 0.0
    augment: str = "none"
    # training
    epochs: int = 1
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    precision: str = "fp32"
    eval_every: int = 1
    warmup_epochs: int = 0
    clip_norm: float = 0.0
    # controls
    updated: str = "all"
    decayed: str = "all"
    # the family
    member: str = "sam"

    def __post_init__(self) -> None:
        for name, kind in _field_types().items():
            object.__setattr__(self, name, _typed(name, kind, getattr(self, name)))
        choose("data set", self.dataset, info.names())
        choose("model", self.model, models.names())
        choose("geometry", self.geometry, (NO_PERTURBATION, *GEOMETRIES))
        choose("augmentation", self.augment, augment.names())
        choose("optimizer", self.optimizer, OPTIMIZERS)
        choose("radius_over", self.radius_over, ("mask", "all"))
        choose("batchnorm", self.batchnorm, ("both", "first"))
        choose("updated", self.updated, ("all", "no_norm"))
        choose("decayed", self.decayed, ("all", "no_norm"))
        if self.precision == "fp16":
            raise ConfigError("fp16 needs a loss scaler, which SAM has no place for; use bf16")
        choose("precision", self.precision, PRECISIONS)
        choose("mask", self.mask, MASKS)
        for name in RANGES:
            _check_range(name, getattr(self, name))
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise ConfigError(
                f"warmup_epochs must be at most epochs ({self.epochs}), not {self.warmup_epochs}"
            )
        if self.sparsity is not None and self.mask not in SPARSE:
            raise ConfigError(
                f"sparsity applies to the masks {', '.join(SPARSE)}; mask is {self.mask}"
            )
        if self.optimizer != "sgd" and self.momentum != RunConfig.momentum:
            raise ConfigError(f"momentum is sgd's, and optimizer is {self.optimizer}: leave it out")
        if self.geometry != NO_PERTURBATION:
            if self.start >= min(self.epochs, math.inf if self.end is None else self.end):
                raise ConfigError(
                    f"start {self.start} and end {self.end} leave none of the {self.epochs} epochs "
                    "to perturb: active are those with start <= epoch < end, counted from 0"
                )
            shape, chooser = by_name(self.geometry), "dynamic" if self.mask == "dynamic" else None
            if self.eta is not None and not shape.takes_eta:
                raise ConfigError(f"geometry {self.geometry} has no eta: leave it out")
            if self.radius_over == "all" and (self.mask == "all" or shape.p == math.inf):
                raise ConfigError(
                    "radius_over 'all' changes nothing with mask all, nor where p is infinite: "
                    "leave it out"
                )
            family.check(self.member, shape, self.radius_over, self.batchnorm, chooser)
        else:
            given = {
                "member": self.member != "sam",
                "mask": self.mask != "all",
                "eta": self.eta is not None,
                "radius_over": self.radius_over != "mask",
                "batchnorm": self.batchnorm != "both",
            }
            given |= {"rho": self.rho > 0, "start": self.start > 0, "end": self.end is not None}
            if idle := next((name for name, is_given in given.items() if is_given), None):
                raise ConfigError(f"{idle} means nothing without a geometry: give one, l2 for SAM")

    def to_dict(self) -> dict:
        """All fields, JSON-ready."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> "RunConfig":
        """The configuration in a record; fields the record lacks take their default.

        Raises:
            ConfigError: a field this version does not have.
        """
        valid = [f.name for f in dataclasses.fields(cls)]
        for name in fields:
            choose("field", name, valid)
        return cls(**fields)

    def replace(self, **changes: typing.Any) -> "RunConfig":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @functools.cached_property
    def run_id(self) -> str:
        """The name of the run's record, of readable parts and a digest of every field.

        Fields at their default are left out of the digest, so that a field added later does not
        rename the runs that came before it.
        """
        changed = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        }
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:10]
        method = self.geometry
        if method != NO_PERTURBATION:
            method += f"-{self.mask}-rho{self.rho:g}"
        if self.member != "sam":
            method = f"{self.member}-{method}"
        return f"{self.model}-{method}-s{self.seed}-{digest}"


@functools.cache
def _field_types() -> dict[str, typing.Any]:
    return typing.get_type_hints(RunConfig)


def _typed(name: str, kind: typing.Any, value: typing.Any) -> typing.Any:
    """The value as its field's type: ints pass as floats, nothing else is converted."""
    allowed = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in allowed:
        return None
    target = next(k for k in allowed if k is not type(None))
    good = isinstance(value, target) or (target is float and isinstance(value, int))
    if not good or isinstance(value, bool):
        raise ConfigError(f"{name} must be {target.__name__}, not {value!r}")
    try:
        value = target(value)
    except OverflowError:
        raise ConfigError(f"{name} is too large") from None
    if target is float and not math.isfinite(value):
        raise ConfigError(f"{name} must be finite, not {value!r}")
    return value


def _check_range(name: str, value: float | None) -> None:
    low, high = RANGES[name]
    if value is None or (low <= value <= high and (name, value) not in _EXCLUDED):
        return
    allowed = f"{'above' if (name, low) in _EXCLUDED else 'at least'} {low}"
    if high < math.inf:
        allowed += f" and {'below' if (name, high) in _EXCLUDED else 'at most'} {high}"
    raise ConfigError(f"{name} must be {allowed}, not {value!r}")
