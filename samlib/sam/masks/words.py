"""What is said of a selection by norm layers: what it left out, and why it is empty."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import cast

from torch import nn
from torch.nn.utils import parametrize

from samlib.sam.masks.looks import per_channel
from samlib.sam.masks.norms import Found, norm_parameters


def left_out(model: nn.Module, found: Found) -> list[str]:
    """What a selection by norm layers does not reach or reaches otherwise, for its `repr`."""
    norm = norm_parameters(model, [m for _, m in found.layers])
    frozen = sum(id(p) in norm and not p.requires_grad for p in model.parameters())
    bare = sum(1 for _ in _bare(model, found))
    computed = [f"{n}.{leaf}" for n, m in found.layers for leaf in _computed(m)]
    notes = [f"{frozen} norm tensors are frozen"] if frozen else []
    notes += [f"{bare} norm layers have no parameters"] if bare else []
    notes += [f"{_some(computed)} computed: what it is made of is meant"] if computed else []
    alike = Counter(type(m).__name__ for _, m in found.alike)
    return notes + [f"{n} {kind} not counted as norm layers" for kind, n in alike.items()]


def other_matrices(model: nn.Module, chosen: set[int]) -> list[str]:
    """What holds a matrix and is none of the layers whose weights were chosen, for a `repr`.

    Args:
        model: the network.
        chosen: ids of the weights, trainable or not.
    """
    frozen = sum(id(p) in chosen and not p.requires_grad for p in model.parameters())
    others = Counter(
        type(m).__name__
        for m in model.modules()
        for p in m.parameters(recurse=False)
        if p.requires_grad and id(p) not in chosen and not per_channel(p)
    )
    notes = [f"{frozen} such weights are frozen"] if frozen else []
    return notes + [f"{n} matrices of {kind} are left out" for kind, n in others.items()]


def warn_of_lookalikes(found: Found, stacklevel: int) -> None:
    """Name what looks like a normalization layer and is not known as one, and the way out."""
    kinds = {type(m): name for name, m in reversed(found.alike)}
    for kind, name in kinds.items():
        count = sum(type(m) is kind for _, m in found.alike)
        warnings.warn(
            f"{kind.__name__} looks like a normalization layer and does not count as one ({count} "
            f"of them, the first at {name or 'the root'}): `{registration(kind)}` has it count; "
            "with norm=False it is left out without this warning",
            stacklevel=stacklevel + 1,
        )


def registration(kind: type[nn.Module]) -> str:
    """The line that registers a type."""
    path, name = kind.__module__, kind.__qualname__
    line = f"masks.register_norm({name})"
    importable = path != "__main__" and "<locals>" not in name
    return f"from {path} import {name.split('.')[0]}; {line}" if importable else line


def why_no_norm(model: nn.Module, found: Found, leaf: str | None = None) -> str:
    """Why no parameter of a norm layer can be selected; `leaf` is the one name asked for."""
    norm = norm_parameters(model, [m for _, m in found.layers])
    free = {norm[id(p)] for p in model.parameters() if p.requires_grad and id(p) in norm}
    if free and leaf:
        return f"its normalization layers have no trainable {leaf}, but {', '.join(sorted(free))}"
    if norm:
        count = len(found.layers)
        return f"its normalization layers ({count}) are frozen: set requires_grad on them first"
    bare = [type(m).__name__ for m in _bare(model, found)]
    if bare:
        return f"its normalization layers ({len(bare)} {bare[0]}) have no parameters"
    hint = registration(type(found.alike[0][1])) if found.alike else "masks.register_norm"
    return f"it has no normalization layer; one of your own is made known with {hint}"


def why_nothing(model: nn.Module) -> str:
    """Why no parameter at all can be selected."""
    frozen = next(model.parameters(), None) is not None
    return "all its parameters are frozen" if frozen else "it has no parameters"


def _bare(model: nn.Module, found: Found) -> Iterator[nn.Module]:
    """Norm layers without parameters: not affine, or with gamma and beta as buffers."""
    known = {id(m) for _, m in found.layers}
    for m in model.modules():
        held = [name for name, _ in m.named_buffers(recurse=False)]
        frozen = "norm" in type(m).__name__.lower() and "weight" in held
        if (id(m) in known or frozen) and next(m.parameters(), None) is None:
            yield m


def _computed(layer: nn.Module) -> Iterable[str]:
    own = [name for name, _ in layer.named_parameters(recurse=False)]
    pruned = [name.removesuffix("_orig") for name in own if name.endswith("_orig")]
    made: Iterable[str] = ()
    if parametrize.is_parametrized(layer):
        made = cast(nn.ModuleDict, layer.parametrizations)
    return [*pruned, *made]


def _some(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is"
    return f"{names[0]} and {len(names) - 1} more norm tensors are"
