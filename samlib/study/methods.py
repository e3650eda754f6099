"""The methods of the study: what is perturbed and how, whatever the network."""

import functools
from dataclasses import dataclass, replace
from typing import Any, Literal

from samlib.trainer.config import NO_PERTURBATION, RunConfig


@dataclass(frozen=True)
class Method:
    """What is perturbed and how, whatever the model.

    Attributes:
        geometry, mask, radius_over, sparsity: as in RunConfig.
        changes: other fields of RunConfig in which the method differs, with their values.
        rho_from: "search": tuned on validation accuracy; "plain": the rho of the method without its
            changes; "law": predicted from SAM's rho (see `law`), untuned; "reported": the one that
            the authors name, in a row of its own, untuned.
        tunes: field of RunConfig that the base optimizer, which has no rho, is tuned over; None
            tunes nothing.
    """

    geometry: str = NO_PERTURBATION
    mask: str = "all"
    radius_over: str = "mask"
    sparsity: float | None = None
    changes: tuple[tuple[str, Any], ...] = ()
    rho_from: Literal["search", "plain", "law", "reported"] = "search"
    tunes: str | None = None

    def but(self, **changes) -> "Method":
        """The method with some more fields of RunConfig changed, and a rho of its own."""
        return replace(self, changes=(*self.changes, *changes.items()), rho_from="search")

    def control(self, **changes) -> "Method":
        """The same, at the rho of the method without the changes."""
        return replace(self.but(**changes), rho_from="plain")

    @property
    def plain(self) -> "Method":
        """The method without its changes."""
        return replace(self, changes=(), rho_from="search")

    @functools.cache  # noqa: B019 (methods and bases are few and live as long as the study)
    def on(self, base: RunConfig, value: float, seed: int) -> RunConfig:
        """The configuration of one run; `value` is rho, or the value of the field in `tunes`."""
        if self.geometry == NO_PERTURBATION:
            tuned = {self.tunes: value} if self.tunes else {}
            return base.replace(seed=seed, **dict(self.changes) | tuned)
        return base.replace(
            seed=seed,
            **dict(self.changes),
            rho=value,
            geometry=self.geometry,
            mask=self.mask,
            radius_over=self.radius_over,
            sparsity=self.sparsity,
        )


BASE = Method()
DECAY = Method(tunes="weight_decay")  # the base optimizer with a weight decay tuned like a rho
ALL = Method("l2", "all")  # SAM
ON = Method("l2", "only_norm")  # SAM-ON
HEADLINE = (BASE, ALL, ON)
RANDOM = Method("l2", "random")  # as many coordinates as SAM-ON moves, drawn at random
REPORTED = (replace(ALL, rho_from="reported"), replace(ON, rho_from="reported"))
# the geometries of the paper's rho figure
SWEPT = ("l2", "elementwise_l2", "elementwise_linf", "layerwise_l2")
CURVES = ("all", "only_norm", "no_norm")  # and the masks it draws
SPARSE_MASKS = ("random", "fisher", "dynamic")
# SAM on per-channel scales of the weights, which need no normalization layer.
SCALES = (Method("output_scales", "convolutions"), Method("input_scales", "weights"))
