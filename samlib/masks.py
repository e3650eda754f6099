"""Which coordinates the ascent step may move: selection is data.

A mask is an explicit, printable set of coordinates of a model's trainable parameters: whole
tensors, or a boolean per coordinate (held as flat indices). Everything else in the library
reads `Mask.entries` and knows nothing of why a coordinate was chosen. Masks that change while
training live in `sparse_masks`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from timm import layers
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .errors import ConfigError
from .prefix import untouched_stages

# timm's batch, layer and group norms subclass torch's; its others stand on their own.
_KNOWN = (
    *(_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
    *(layers.RmsNorm, layers.RmsNorm2d, layers.RmsNormFp32, layers.RmsNorm2dFp32),
    *(layers.SimpleNorm, layers.SimpleNorm2d, layers.SimpleNormFp32, layers.SimpleNorm2dFp32),
    *(layers.EvoNorm2dB0, layers.EvoNorm2dB1, layers.EvoNorm2dB2),
    *(layers.EvoNorm2dS0, layers.EvoNorm2dS1, layers.EvoNorm2dS2),
    *(layers.FilterResponseNormTlu2d, layers.FilterResponseNormAct2d, layers.InplaceAbn),
)
_NORM_TYPES: list[type[nn.Module]] = [*_KNOWN]


def register_norm(*types: type[nn.Module]) -> None:
    """Have layers of these types (and their subclasses) count as normalization layers.

    Parameters and buffers of modules inside such a layer count with it. Of torch's and timm's
    layers only their own do: some hold an activation.

    Raises:
        ConfigError: something that is not a module type.
    """
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ConfigError(f"register_norm takes nn.Module types, not {kind!r}")
        if kind not in _NORM_TYPES:
            _NORM_TYPES.append(kind)


def norm_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of every normalization layer, found by type (BN, LN, GN, RMS, registered).

    The authors find them by name, which misses the shortcut norms of most torchvision and timm
    networks (science.md 1.2, quirk 20).
    """
    return [(n, m) for n, m in model.named_modules() if isinstance(m, tuple(_NORM_TYPES))]


def _parts(layer: nn.Module) -> list[nn.Module]:
    """The modules whose parameters and buffers are a norm layer's."""
    registered = tuple(t for t in _NORM_TYPES if t not in _KNOWN)
    return list(layer.modules()) if isinstance(layer, registered) else [layer]


def norm_parameters(model: nn.Module, chosen: Iterable[nn.Module] | None = None) -> dict[int, str]:
    """Leaf name (`weight`, `bias`, ...) of each norm layer's parameters, by the parameter's id.

    Args:
        model: the network.
        chosen: some of its norm layers; None is all of them.
    """
    norms = [m for _, m in norm_layers(model)] if chosen is None else chosen
    parts = (part for m in norms for part in _parts(m))
    return {id(p): leaf for part in parts for leaf, p in part.named_parameters(recurse=False)}


class Entry(NamedTuple):
    """A parameter and the flat indices selected in it (int64; None: all of it)."""

    name: str
    parameter: nn.Parameter
    index: Tensor | None = None

    @property
    def count(self) -> int:
        """Number of selected coordinates."""
        return self.parameter.numel() if self.index is None else self.index.numel()


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Parameters that require a gradient, in the model's order; tied ones once."""
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def refuse_half(parameters: Iterable[nn.Parameter]) -> None:
    """Raise a ConfigError if one of the parameters is in half precision."""
    half = {p.dtype for p in parameters} & {torch.bfloat16, torch.float16}
    if half:
        raise ConfigError(
            f"parameters are {half.pop()}: most would not move by a step of rho; "
            "keep them in float32 and run the forward pass under bfloat16 autocast"
        )


class Mask:
    """A set of coordinates of a model's trainable parameters.

    Args:
        model: the network; frozen parameters are never part of a mask.
        entries: the coordinates, one entry per parameter.
        kind: name used in `repr` and records.

    Attributes:
        entries: tuple of `Entry`, in the model's parameter order.
        trainable: name and parameter of everything that could be selected.
        norms: the model's norm layers.
        untouched: leading stages of the model without a selected coordinate.
        unused: names of parameters that some loss did not use, each reported once.
        total: number of trainable coordinates in the model.

    Raises:
        ConfigError: no coordinate selected, or parameters in half precision.
    """

    def __init__(self, model: nn.Module, entries: Iterable[Entry], kind: str):
        self.model = model
        self.kind = kind
        self.trainable = trainable(model)
        self.norms = [m for _, m in norm_layers(model)]
        parts = {id(part): part for m in self.norms for part in _parts(m)}
        self._stateful = [part for part in parts.values() if part._buffers]
        self.unused: set[str] = set()
        self.total = sum(p.numel() for _, p in self.trainable)
        self.entries = tuple(e for e in entries if e.count)
        if not self.entries:
            raise ConfigError(
                f"mask {kind} selects no trainable coordinate of {type(model).__name__}; "
                "a normalization layer of your own is made known with masks.register_norm"
            )
        self.untouched = untouched_stages(model, [e.parameter for e in self.entries])
        refuse_half(e.parameter for e in self.entries)

    @property
    def norm_buffers(self) -> list[Tensor]:
        """Running statistics of the norm layers, as they are now: `model.to` replaces them."""
        return [b for m in self._stateful for b in m._buffers.values() if b is not None]

    @property
    def count(self) -> int:
        """Number of selected coordinates."""
        return sum(e.count for e in self.entries)

    @property
    def share(self) -> float:
        """Selected coordinates over all trainable ones."""
        return self.count / self.total

    @property
    def sparsity(self) -> float:
        """1 - share, as the sparse-perturbation literature counts."""
        return 1 - self.share

    def __repr__(self) -> str:
        return (
            f"Mask {self.kind}: {self.count:,} of {self.total:,} coordinates in "
            f"{len(self.entries)} tensors (share {self.share:.3%}, sparsity {self.sparsity:.3%})"
        )

    def begin_epoch(self, epoch: int, sample: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        """Called by the trainer before each epoch; fixed masks ignore it.

        Args:
            epoch: number of the epoch, from 0.
            sample: `sample(n)` gives n training examples (inputs, labels) ready for the model.
        """

    def observe(self, grads: Sequence[Tensor]) -> None:
        """Called by the step with the ascent gradient of every entry; fixed masks ignore it.

        Args:
            grads: gradients at the selected coordinates, one tensor per entry.
        """

    def state_dict(self) -> dict:
        """What a checkpoint must hold to continue; empty for fixed masks."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict`."""


def _where(model: nn.Module, kind: str, keep: Callable[[nn.Parameter], bool]) -> Mask:
    return Mask(model, [Entry(n, p) for n, p in trainable(model) if keep(p)], kind)


def all_parameters(model: nn.Module) -> Mask:
    """Every trainable parameter: SAM as published."""
    return _where(model, "all", lambda p: True)


def only_norm(model: nn.Module) -> Mask:
    """gamma and beta of every normalization layer: SAM-ON."""
    norm = norm_parameters(model)
    return _where(model, "only_norm", lambda p: id(p) in norm)


def no_norm(model: nn.Module) -> Mask:
    """Everything but the normalization layers."""
    norm = norm_parameters(model)
    return _where(model, "no_norm", lambda p: id(p) not in norm)


def only_gamma(model: nn.Module) -> Mask:
    """Scales (`weight`) of the normalization layers."""
    norm = norm_parameters(model)
    return _where(model, "only_gamma", lambda p: norm.get(id(p)) == "weight")


def only_beta(model: nn.Module) -> Mask:
    """Shifts (`bias`) of the normalization layers."""
    norm = norm_parameters(model)
    return _where(model, "only_beta", lambda p: norm.get(id(p)) == "bias")


def _weights_of(model: nn.Module, kind: str, *types: type[nn.Module]) -> Mask:
    chosen = set()
    for name, m in model.named_modules():
        if not isinstance(m, types):
            continue
        own = dict(m.named_parameters(recurse=False))
        if "weight" not in own:
            raise ConfigError(
                f"the weight of {name or type(m).__name__} is computed from other parameters, as "
                "weight norm and pruning do: choose among those with masks.from_booleans"
            )
        chosen.add(id(own["weight"]))
    return _where(model, kind, lambda p: id(p) in chosen)


def convolutions(model: nn.Module) -> Mask:
    """Weights of all convolutions.

    Raises:
        ConfigError: none, or one that is no parameter (weight norm, pruning).
    """
    return _weights_of(model, "convolutions", nn.Conv1d, nn.Conv2d, nn.Conv3d)


def weights(model: nn.Module) -> Mask:
    """Weights of all convolutions and linear layers, without their biases.

    Raises:
        ConfigError: as `convolutions`.
    """
    return _weights_of(model, "weights", nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def blocks(model: nn.Module, stages: Sequence[int]) -> Mask:
    """Normalization layers inside some of a model's stages.

    Args:
        model: a network with `stages`, its parts in forward order, as every model of the zoo.
        stages: their numbers from 1: [2, 3] is the paper's B2+B3. Norm layers outside all
            stages (stem, final) are in none.

    Raises:
        ConfigError: a stage number the model does not have, or a model without stages.
    """
    parts = getattr(model, "stages", ())
    if isinstance(stages, int):
        raise ConfigError(f"stages is a list of stage numbers, such as [{stages}]")
    bad = [s for s in stages if not (isinstance(s, int) and 1 <= s <= len(parts))]
    if bad or not stages:
        raise ConfigError(
            f"no stage {', '.join(map(str, bad)) or 'chosen'}; "
            f"{type(model).__name__} has stages 1 to {len(parts)}"
        )
    norm = norm_parameters(model, [m for s in stages for _, m in norm_layers(parts[s - 1])])
    return _where(model, "blocks_" + "".join(map(str, stages)), lambda p: id(p) in norm)


def from_booleans(model: nn.Module, selected: dict[str, Tensor], kind: str = "custom") -> Mask:
    """A mask from one boolean tensor per parameter name (absent: nothing of that parameter).

    Raises:
        ConfigError: an unknown or frozen parameter, no tensor, a wrong dtype or shape.
    """
    parameters = dict(trainable(model))
    for name, chosen in selected.items():
        if name not in parameters:
            raise ConfigError(f"{name!r} is not a trainable parameter of {type(model).__name__}")
        fits = isinstance(chosen, Tensor) and chosen.shape == parameters[name].shape
        if not fits or chosen.dtype != torch.bool:
            shape = tuple(parameters[name].shape)
            raise ConfigError(f"the mask of {name} must be a boolean tensor of shape {shape}")
    return Mask(
        model,
        [
            Entry(n, p, selected[n].to(p.device).flatten().nonzero().flatten())
            for n, p in parameters.items()
            if n in selected
        ],
        kind,
    )


# By the name configurations use: how to make the mask of a network from a RunConfig. A mask of
# your own is a function and a line in such a table; `sparse_masks` adds its masks to this one.
MASKS: dict[str, Callable[[nn.Module, Any], Mask]] = {
    "all": lambda model, config: all_parameters(model),
    "only_norm": lambda model, config: only_norm(model),
    "no_norm": lambda model, config: no_norm(model),
    "only_gamma": lambda model, config: only_gamma(model),
    "only_beta": lambda model, config: only_beta(model),
    "convolutions": lambda model, config: convolutions(model),
    "weights": lambda model, config: weights(model),
} | {
    "blocks_" + "".join(map(str, stages)): lambda model, config, s=stages: blocks(model, s)
    for stages in ([1], [2], [3], [1, 2], [1, 3], [2, 3], [1, 2, 3])
}
