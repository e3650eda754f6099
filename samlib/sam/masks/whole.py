"""Masks of whole tensors: all, by layer type, by stage, or by booleans of your own."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from samlib.errors import ConfigError
from samlib.sam.masks import words
from samlib.sam.masks.base import Entry, Mask, trainable
from samlib.sam.masks.norms import find, norm_parameters, of_a_model


def _where(model: nn.Module, kind: str, keep: Callable[[nn.Parameter], bool], **said: Any) -> Mask:
    return Mask(model, [Entry(n, p) for n, p in trainable(model) if keep(p)], kind, **said)


_BY_NORM = {
    "only_norm": lambda leaf: leaf is not None,
    "no_norm": lambda leaf: leaf is None,
    "only_gamma": lambda leaf: leaf == "weight",
    "only_beta": lambda leaf: leaf == "bias",
    "only_alpha": lambda leaf: leaf == "alpha",
    "without_alpha": lambda leaf: leaf not in (None, "alpha"),
}


def _by_norm(model: nn.Module, kind: str, leaf: str | None = None) -> Mask:
    """A mask by the leaf name of norm layers' parameters, None for a parameter of no such layer.

    What looks like a norm layer and does not count as one is named in a warning.
    """
    found = find(model)
    norm = norm_parameters(model, [m for _, m in found.layers])
    words.warn_of_lookalikes(found, stacklevel=3)
    why = words.why_no_norm(model, found, leaf)
    if kind == "no_norm":
        why = "nothing outside its normalization layers is trainable"
    notes = words.left_out(model, found)
    others = sorted({*norm.values()} - {"weight", "bias", leaf})
    if leaf and others:
        notes.append(f"{', '.join(others)} of norm layers are neither weight nor bias")
    keep = _BY_NORM[kind]
    again = partial(_by_norm, kind=kind, leaf=leaf)
    return _where(model, kind, lambda p: keep(norm.get(id(p))), notes=notes, empty=why, again=again)


def all_parameters(model: nn.Module) -> Mask:
    """Every trainable parameter: SAM as published (Foret et al., 2021).

    Args:
        model: the network.

    Raises:
        ConfigError: as `Mask`, or no model.
    """
    why = words.why_nothing(of_a_model(model))
    return _where(model, "all", lambda p: True, empty=why, again=all_parameters)


def only_norm(model: nn.Module) -> Mask:
    """gamma and beta of every normalization layer: SAM-ON (Müller et al., 2023; specification 1.0).

    Every parameter of such a layer is selected; frozen ones are left out. `norm_layers` says
    which layers count, `register_norm` adds some.

    Args:
        model: the network.

    Raises:
        ConfigError: as `Mask`, or no model; the message says why no parameter can be selected.

    Warns:
        UserWarning: a layer looks like a normalization layer and does not count as one.
    """
    return _by_norm(model, "only_norm")


def no_norm(model: nn.Module) -> Mask:
    """Everything but the normalization layers: the complement of `only_norm` (specification 1.0).

    Args:
        model: the network.

    Raises:
        ConfigError: as `only_norm`.

    Warns:
        UserWarning: as `only_norm`; the layer in question is then selected.
    """
    return _by_norm(model, "no_norm")


def only_gamma(model: nn.Module) -> Mask:
    """Scales (`weight`, `gamma` or `scale`) of the normalization layers.

    Args:
        model: the network.

    Raises:
        ConfigError: as `only_norm`.

    Warns:
        UserWarning: as `only_norm`.
    """
    return _by_norm(model, "only_gamma", "weight")


def only_beta(model: nn.Module) -> Mask:
    """Shifts (`bias`, `beta` or `shift`) of the normalization layers.

    Args:
        model: the network.

    Raises:
        ConfigError: as `only_norm`.

    Warns:
        UserWarning: as `only_norm`.
    """
    return _by_norm(model, "only_beta", "bias")


def only_alpha(model: nn.Module) -> Mask:
    """The slope `alpha` of every DyT layer, one number each (Zhu et al., 2025).

    Args:
        model: the network.

    Raises:
        ConfigError: as `only_norm`.

    Warns:
        UserWarning: as `only_norm`.
    """
    return _by_norm(model, "only_alpha", "alpha")


def without_alpha(model: nn.Module) -> Mask:
    """gamma and beta of every normalization layer, DyT's among them, without its slope `alpha`.

    Args:
        model: the network.

    Raises:
        ConfigError: as `only_norm`.

    Warns:
        UserWarning: as `only_norm`.
    """
    return _by_norm(model, "without_alpha")


def _weights_of(model: nn.Module, kind: str, types: tuple[type[nn.Module], ...]) -> Mask:
    chosen = set()
    for name, m in of_a_model(model).named_modules():
        if not isinstance(m, types):
            continue
        own = dict(m.named_parameters(recurse=False))
        if "weight" not in own:
            raise ConfigError(
                f"the weight of {name or type(m).__name__} is computed from other parameters, as "
                "weight norm and pruning do: choose among those with masks.from_booleans"
            )
        chosen.add(id(own["weight"]))
    again = partial(_weights_of, kind=kind, types=types)
    notes = words.other_matrices(model, chosen)
    layers = ", ".join(t.__name__ for t in types)
    empty = "all such weights are frozen" if chosen else f"it has no layer of {layers}"
    return _where(model, kind, lambda p: id(p) in chosen, again=again, notes=notes, empty=empty)


def convolutions(model: nn.Module) -> Mask:
    """Weights of all convolutions.

    Raises:
        ConfigError: none, or one that is no parameter (weight norm, pruning).
    """
    return _weights_of(model, "convolutions", (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def weights(model: nn.Module) -> Mask:
    """Weights of all convolutions and linear layers, without their biases.

    Raises:
        ConfigError: as `convolutions`.
    """
    return _weights_of(model, "weights", (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))


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
    if not parts:
        raise ConfigError(
            f"{type(model).__name__} has no stages: give it a property `stages`, its parts in "
            "forward order"
        )
    if isinstance(stages, int):
        raise ConfigError(f"stages is a list of stage numbers, such as [{stages}]")
    bad = [s for s in stages if not (isinstance(s, int) and 1 <= s <= len(parts))]
    if bad or not stages:
        raise ConfigError(
            f"no stage {', '.join(map(str, bad)) or 'chosen'}; "
            f"{type(model).__name__} has stages 1 to {len(parts)}"
        )
    inside = nn.ModuleList(parts[s - 1] for s in stages)
    found = find(inside)
    norm = norm_parameters(model, [m for _, m in found.layers])
    words.warn_of_lookalikes(found, stacklevel=2)
    return _where(
        model,
        "blocks_" + "".join(map(str, stages)),
        lambda p: id(p) in norm,
        notes=words.left_out(inside, found),
        empty=words.why_no_norm(inside, found),
        again=partial(blocks, stages=stages),
    )


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
        empty="none of the booleans is True",
    )
