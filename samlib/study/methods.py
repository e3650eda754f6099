"""The methods of the study: what is perturbed and how, whatever the network."""

import functools
from dataclasses import dataclass, replace
from typing import Any

from samlib.trainer.config import NO_PERTURBATION, RunConfig


@dataclass(frozen=True)
class Method:
    """What is perturbed and how, whatever the model.

    Attributes:
        geometry, mask, radius_over, sparsity: as in RunConfig.
        changes: other fields of RunConfig in which the method differs, with their values.
        own_rho: False takes the rho of the method without its changes instead of tuning one.
    """

    geometry: str = NO_PERTURBATION
    mask: str = "all"
    radius_over: str = "mask"
    sparsity: float | None = None
    changes: tuple[tuple[str, Any], ...] = ()
    own_rho: bool = True

    def but(self, own_rho: bool = True, **changes) -> "Method":
        """The method with some more fields of RunConfig changed."""
        return replace(self, changes=(*self.changes, *changes.items()), own_rho=own_rho)

    @property
    def plain(self) -> "Method":
        """The method without its changes."""
        return replace(self, changes=(), own_rho=True)

    @property
    def key(self) -> tuple[str, ...]:
        """Entry of `Profile.grids`: geometry, mask and, for a sparse mask, radius rule and level.

        >>> Method("l2", "only_norm").key, Method("l2", "random", "all", 0.5).key
        (('l2', 'only_norm'), ('l2', 'random', 'all', '0.5'))
        """
        if self.mask not in SPARSE_MASKS:
            return self.geometry, self.mask
        level = "norm" if self.sparsity is None else f"{self.sparsity:g}"
        return self.geometry, self.mask, self.radius_over, level

    @functools.cache  # noqa: B019 (methods and bases are few and live as long as the study)
    def on(self, base: RunConfig, rho: float, seed: int) -> RunConfig:
        """The configuration of one run."""
        if self.geometry == NO_PERTURBATION:
            return base.replace(seed=seed, **dict(self.changes))
        return base.replace(
            seed=seed,
            **dict(self.changes),
            rho=rho,
            geometry=self.geometry,
            mask=self.mask,
            radius_over=self.radius_over,
            sparsity=self.sparsity,
        )


BASE = Method()
ALL = Method("l2", "all")  # SAM
ON = Method("l2", "only_norm")  # SAM-ON
HEADLINE = (BASE, ALL, ON)
# the geometries of the paper's rho figure, swept with all seeds in the headline family
SWEPT = ("l2", "elementwise_l2", "elementwise_linf", "layerwise_l2")
CURVES = ("all", "only_norm", "no_norm")  # and the masks it draws
SPARSE_MASKS = ("random", "fisher", "dynamic")
# SAM on per-channel scales of the weights, which need no normalization layer.
SCALES = (Method("output_scales", "convolutions"), Method("input_scales", "weights"))
# What a claim is decided by beside the headline: masks of SAM-ON's sparsity, the scales, the
# variant whose norm layers carry most, the first and the last stages, statistics of the first pass.
DECISIVE = (
    *(Method("l2", mask, radius) for mask in SPARSE_MASKS for radius in ("mask", "all")),
    *SCALES,
    *(Method("elementwise_l2", mask) for mask in ("all", "no_norm")),
    *(Method("l2", f"blocks_{stages}") for stages in ("1", "23")),
    *(method.but(batchnorm="first") for method in (ALL, ON)),
)
