"""Normalization layers of a model: found by type, by registration, and by what they compute."""

import re
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

from samlib.errors import ConfigError
from samlib.sam.masks.looks import could_normalize, could_scale, normalizes, stands_alone

_TORCH = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
# timm's batch, layer and group norms subclass torch's; these stand on their own.
_TIMM = (
    *("RmsNorm", "RmsNorm2d", "RmsNormFp32", "RmsNorm2dFp32"),
    *("SimpleNorm", "SimpleNorm2d", "SimpleNormFp32", "SimpleNorm2dFp32"),
    *("EvoNorm2dB0", "EvoNorm2dB1", "EvoNorm2dB2", "EvoNorm2dS0", "EvoNorm2dS1", "EvoNorm2dS2"),
    *("FilterResponseNormTlu2d", "FilterResponseNormAct2d", "InplaceAbn"),
)
# It scales by a channel's share of the whole, and leaves the size of its input as it is.
_TIMM_OTHERS = ("grn.GlobalResponseNorm",)
_LEAVES = {"gamma": "weight", "scale": "weight", "beta": "bias", "shift": "bias"}
_NORM = re.compile(r"norm(alization)?(\d+d)?$")  # a head of normalized weights ends in linear
_REGISTERED: dict[type[nn.Module], bool] = {}


def register_norm(*types: type[nn.Module], norm: bool = True) -> None:
    """Have layers of these types (and their subclasses) count as normalization layers.

    Parameters and buffers of modules inside such a layer count with it. Of torch's and timm's
    layers only their own do: some hold an activation.

    Args:
        types: the layers' types.
        norm: False has them count as none, and not be named in a warning for their looks.

    Raises:
        ConfigError: something that is not a module type.
    """
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ConfigError(f"register_norm takes nn.Module types, not {kind!r}")
        _REGISTERED[kind] = norm


def _timm(names: Iterable[str]) -> tuple[type[nn.Module], ...]:
    """Some of timm's types; none where timm is not loaded, since no model has them there."""
    if "timm.layers" not in sys.modules:
        return ()
    found = []
    for name in names:
        module, _, kind = f"timm.layers.{name}".rpartition(".")
        found.append(getattr(sys.modules.get(module), kind, None))
    return tuple(kind for kind in found if kind is not None)


def registered(norm: bool) -> tuple[type[nn.Module], ...]:
    """The types registered as norm layers, or as none."""
    return tuple(kind for kind, counts in _REGISTERED.items() if counts is norm)


class Found(NamedTuple):
    """Names and modules of a model: its norm layers, and what only looks like one.

    A lookalike's class is called a norm, or its place is and what it computes cannot be tried.
    """

    layers: list[tuple[str, nn.Module]]
    alike: list[tuple[str, nn.Module]]


def of_a_model(model: nn.Module) -> nn.Module:
    """The model, checked to be one.

    Raises:
        ConfigError: it is a class of models, a list of parameters, or anything else.
    """
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ConfigError(f"a mask is made of a model, an nn.Module, not of {what}")
    return model


def find(model: nn.Module) -> Found:
    """The normalization layers of a model, and what looks like one and does not count."""
    every = list(_sorted(of_a_model(model)))
    layers, alike = ([(n, m) for n, m, found in every if found is c] for c in (True, None))
    return Found(layers, alike)


def norm_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of every normalization layer: BN, LN, GN, RMS, and others that normalize.

    A layer of another type counts if it is registered, or if a copy of the layer, tried, computes
    the same output for x and c x, c > 0. The authors find norm layers by name, which misses the
    shortcut norms of most torchvision and timm networks (specification 1.2, quirk 20).
    """
    return find(model).layers


def _sorted(model: nn.Module) -> Iterator[tuple[str, nn.Module, bool | None]]:
    """Every module, and whether it is a norm layer; None for one that only looks so."""
    known, chosen = (*_TORCH, *_timm(_TIMM)), registered(True)
    others = (*_timm(_TIMM_OTHERS), *registered(False))
    scripted = {kind.__name__ for kind in (*known, *chosen, *_torch_norms())}
    inside: set[int] = set()  # of norm layers and their likes, which are sorted as a whole
    for name, module in model.named_modules():
        counts: bool | None = False
        if isinstance(module, chosen):
            counts = True
        elif isinstance(module, torch.jit.ScriptModule):  # which has no types, but their names
            counts = module.original_name in scripted
        elif isinstance(module, known):
            counts = True
        elif id(module) not in inside and not isinstance(module, others):
            counts = _by_deed(name, module, known)
            inside.update(id(m) for m in module.modules() if counts is not False)
        yield name, module, counts


def _torch_norms() -> Iterator[type[nn.Module]]:
    return (k for k in vars(nn).values() if isinstance(k, type) and issubclass(k, _TORCH))


def _by_deed(name: str, module: nn.Module, known: tuple) -> bool | None:
    called = type(module).__name__.lower()
    channels, norm = could_normalize(module), "norm" in called
    alone = stands_alone(module) and bool(_NORM.search(called))
    tried = channels or (norm and could_scale(module))
    if not (tried or alone) or any(isinstance(m, known) for m in module.modules()):
        return False
    does = normalizes(module) if tried else None
    if does:
        return True
    placed = "norm" in name.rpartition(".")[2].lower()
    return None if alone or (channels and (norm or (placed and does is None))) else False


def parts(layer: nn.Module) -> list[nn.Module]:
    """The modules whose parameters and buffers are a norm layer's."""
    own_alone = isinstance(layer, (*_TORCH, *_timm(_TIMM), torch.jit.ScriptModule))
    if own_alone and not isinstance(layer, registered(True)):
        return [layer]
    return list(layer.modules())


def norm_parameters(model: nn.Module, chosen: Iterable[nn.Module] | None = None) -> dict[int, str]:
    """Leaf name (`weight`, `bias`, ...) of each norm layer's parameters, by the parameter's id.

    A `gamma` or `scale` is a weight here, a `beta` or `shift` a bias. Where one is computed from
    others, by a parametrization or by pruning, those others are meant, under its name.

    Args:
        model: the network.
        chosen: some of its norm layers; None is all of them.
    """
    norms = [m for _, m in norm_layers(model)] if chosen is None else chosen
    found: dict[int, str] = {}
    for part in (part for layer in norms for part in parts(layer)):
        for leaf, p in _leaves(part):
            found.setdefault(id(p), leaf)
    return found


def _leaves(part: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for leaf, p in part.named_parameters(recurse=False):
        leaf = leaf.removesuffix("_orig")
        yield _LEAVES.get(leaf, leaf), p
    if parametrize.is_parametrized(part):
        for leaf, made_of in cast(nn.ModuleDict, part.parametrizations).items():
            yield from ((_LEAVES.get(leaf, leaf), p) for p in made_of.parameters())
