"""What the ascent step does: which ball, how large, along what, on which coordinates, when."""

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from samlib.errors import ConfigError, choose
from samlib.sam.geometry import Geometry
from samlib.sam.masks.base import Mask
from samlib.sam.radius import Radius
from samlib.sam.source.base import Source
from samlib.sam.source.this_step import Gradient
from samlib.sam.when import When


class Plan(NamedTuple):
    """What the coming step does, decided outside of it: steps of one plan can be recorded once.

    Attributes:
        active: whether the epoch is.
        perturb: whether the step is perturbed; None where its own gradient decides.
        refresh: whether the source renews what it does not renew at every step.
    """

    active: bool = False
    perturb: bool | None = False
    refresh: bool = False


@dataclass(frozen=True)
class Perturbation:
    """What the ascent step does: which ball, how large, along what, over which coordinates, when.

    Args:
        geometry: T_w and p, from `samlib.geometry`.
        rho: radius of the ball, finite and >= 0.
        mask: the coordinates that move, from `samlib.masks`.
        radius_over: "mask": the norm in the step runs over the mask, so ||T_w^-1 eps|| = rho
            (the paper). "all": over all trainable parameters, then masked, so it is smaller
            (SSAM; specification 2).
        batchnorm: "both": running statistics follow both passes (the authors' code). "first":
            those of the second pass are dropped.
        start, end: active epochs, start <= epoch < end; end None is for ever.
        source: along what the ascent looks, from `samlib.sam.source`; this step's gradient.
        radius: how rho becomes a length, a ball of constant radius.
        when: which steps of the active epochs are perturbed, all.
        average: called on the ascent's gradients, in place: data-parallel training whose workers
            share one perturbation.

    Raises:
        ConfigError: a value out of range, with the valid ones, or two parts that exclude each
            other.
    """

    geometry: Geometry
    rho: float
    mask: Mask
    radius_over: Literal["mask", "all"] = "mask"
    batchnorm: Literal["both", "first"] = "both"
    start: int = 0
    end: int | None = None
    source: Source = field(default_factory=Gradient)
    radius: Radius = field(default_factory=Radius)
    when: When = field(default_factory=When)
    average: Callable[[Sequence[Tensor]], None] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.rho, bool) or not isinstance(self.rho, numbers.Real):
            raise ConfigError(f"rho must be a number, not {self.rho!r}")
        if isinstance(self.source, list | tuple):
            raise ConfigError(f"sources exclude each other: give one of {self.source!r}")
        parts = {"geometry": Geometry, "mask": Mask, "source": Source}
        for name, kind in (parts | {"radius": Radius, "when": When}).items():
            if not isinstance(getattr(self, name), kind):
                given = getattr(self, name)
                what = repr(given) if isinstance(given, str | float | None) else type(given)
                what = f"the class {given.__name__}: call it" if isinstance(given, type) else what
                raise ConfigError(f"{name} must be a samlib {kind.__name__}, not {what}")
        epochs = (self.start, 0 if self.end is None else self.end)
        if not all(isinstance(e, int) and not isinstance(e, bool) for e in epochs):
            raise ConfigError(f"active epochs {self.start!r} to {self.end!r} are not whole numbers")
        if not (math.isfinite(self.rho) and self.rho >= 0):
            raise ConfigError(f"rho must be finite and >= 0, not {self.rho!r}")
        choose("radius_over", self.radius_over, ("mask", "all"))
        choose("batchnorm", self.batchnorm, ("both", "first"))
        if self.start < 0:
            raise ConfigError(f"start is an epoch, counted from 0, not {self.start}")
        if self.end is not None and self.end < self.start:
            raise ConfigError(
                f"start {self.start} and end {self.end} leave no epoch: active are those with "
                "start <= epoch < end, counted from 0"
            )
        chooses = type(self.mask).observe is not Mask.observe
        refuse_pairs(
            self.geometry,
            self.radius_over,
            self.batchnorm,
            self.source,
            self.radius,
            self.when,
            chooser=self.mask.kind if chooses else None,
        )

    def active(self, epoch: int | None) -> bool:
        """Whether this epoch (from 0) is perturbed; None, for a loop without epochs, is.

        Raises:
            ConfigError: None where only some epochs are, or no number.
        """
        if epoch is None:
            if self.start or self.end is not None:
                raise ConfigError(
                    f"the perturbation has start {self.start} and end {self.end}: say which epoch "
                    "it is, sam_step(..., epoch=epoch) or perturbed(..., plan=p.plan(epoch))"
                )
            return True
        try:
            return self.start <= epoch and (self.end is None or epoch < self.end)
        except TypeError as error:
            raise ConfigError(f"epoch must be a number, not {epoch!r}") from error

    def plan(self, epoch: int | None = None) -> Plan:
        """What the coming step does; asked once per step, because parts count and draw in it."""
        if not self.active(epoch):
            return Plan()
        perturb = self.when.plan()
        return Plan(True, perturb, self.source.plan(self.mask, perturb is not False))

    def after_step(self, plan: Plan) -> None:
        """Called by `sam_step` after the optimizer's step, before its gradients are dropped."""
        if plan.active:
            with torch.no_grad():
                self.source.after_step(self.mask, plan.refresh)

    def state_dict(self) -> dict:
        """What a checkpoint must hold to continue: of mask, source and when."""
        parts = {"source": self.source, "when": self.when}
        named = {kind: {"name": p.name, "state": p.state_dict()} for kind, p in parts.items()}
        return {"mask": self.mask.state_dict(), "of": self._of} | named

    @property
    def _of(self) -> list:
        mask = self.mask
        return [mask.kind, mask.count, mask.total]

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict`.

        Raises:
            ConfigError: the state is of another source or when.
        """
        for kind, part in (("source", self.source), ("when", self.when)):
            if (other := state[kind]["name"]) != part.name:
                raise ConfigError(f"the state is of {kind} {other}, this one is {part.name}")
            part.load_state_dict(state[kind]["state"])
        if (of := state.get("of", self._of)) != self._of:
            there, here = ("{} of {:,} of {:,} coordinates".format(*m) for m in (of, self._of))
            raise ConfigError(f"the state is of mask {there}, this one is {here}")
        if state["mask"]:
            self.mask.load_state_dict(state["mask"])
        self.source.follow(self.mask.entries)  # before the mask may choose anew


def refuse_pairs(
    geometry: Geometry,
    radius_over: str,
    batchnorm: str,
    source: Source,
    radius: Radius,
    when: When,
    chooser: str | None,
) -> None:
    """Raise a ConfigError for two parts of a perturbation that exclude each other.

    Args:
        geometry, radius_over, batchnorm, source, radius, when: as of a `Perturbation`.
        chooser: kind of a mask that chooses its coordinates by the ascent's gradient.
    """
    over_all, one_pass = radius_over == "all" and geometry.p != math.inf, not source.own_pass
    first = f"first pass, which source {source.name} does without"
    refused = [
        (one_pass and batchnorm == "first", f"batchnorm 'first' needs a {first}"),
        (one_pass and when.looks, f"when {when.name} needs the gradient of a {first}"),
        (one_pass and chooser, f"mask {chooser} needs the gradient of a {first}"),
        (
            over_all and not isinstance(source, Gradient),
            f"radius_over 'all' needs everything's gradient: source {source.name} is on the mask",
        ),
        (
            radius.free and (over_all or geometry.p == math.inf),
            "a free radius leaves out a norm: it needs p = 2 and radius_over 'mask'",
        ),
    ]
    for excluded, why in refused:
        if excluded:
            raise ConfigError(why)
