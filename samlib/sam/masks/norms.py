"""Normalization layers of a model, found by module type."""

from collections.abc import Iterable

from timm import layers
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from samlib.errors import ConfigError

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
    networks (specification 1.2, quirk 20).
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
