"""What a module computes: whether it normalizes, whoever wrote it and whatever it is called.

A normalization layer divides its input by the size it has. So its output is the same for x and for
c x, c > 0, and is no two-valued sign of x. That is tried on a copy of the layer, once per class and
setting.
"""

import copy
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_FACTOR = 8.0  # exact in floating point
_CLOSE = 1e-2  # far above what a layer's epsilon changes at inputs of this size
_SIZE = 10.0
_MOST = 2**16  # values in a parameter of more than one dimension that is tried
_TRIED: WeakKeyDictionary[type, dict] = WeakKeyDictionary()


def per_channel(parameter: Tensor) -> bool:
    """Whether a parameter has one value per channel: all its dimensions but one are 1."""
    return parameter.numel() == max(parameter.shape, default=1)


def could_normalize(module: nn.Module) -> bool:
    """Whether a module is built as a normalization layer: it holds values per channel alone.

    torch's own layers, and what derives from them, are known by type and need no look.
    """
    held = list(module.parameters())
    return bool(held) and not _of_torch(module) and all(map(per_channel, held))


def could_scale(module: nn.Module) -> bool:
    """Whether a module holds values of one shape, as a gamma for each head and channel.

    A matrix has such a shape, too: whoever asks knows that the module is called a norm.
    """
    held = list(module.parameters())
    if not held or _of_torch(module):
        return False
    whole = max(held, key=Tensor.numel)
    return whole.numel() <= _MOST and all(p.shape == whole.shape or per_channel(p) for p in held)


def stands_alone(module: nn.Module) -> bool:
    """Whether a module of no type of torch holds parameters itself, and no module inside it does.

    So it is no block that has a norm layer among others.
    """
    own = list(module.parameters(recurse=False))
    return bool(own) and not _of_torch(module) and len(own) == len(list(module.parameters()))


def _of_torch(module: nn.Module) -> bool:
    bases = (b for b in type(module).__mro__ if b is not nn.Module)
    return any(b.__module__.startswith("torch.nn.modules.") for b in bases)


def normalizes(module: nn.Module) -> bool | None:
    """Whether a module that could normalize does so; None where its forward pass cannot be tried.

    The copy is tried in training mode, in float32, at generic weights; hooks do not run.
    """
    settings = _TRIED.setdefault(type(module), {})
    key = _setting(module)
    if key not in settings:
        settings[key] = _try(module)
    return settings[key]


def _setting(module: nn.Module) -> tuple:
    plain = ((k, v) for k, v in vars(module).items() if isinstance(v, int | float | str | None))
    shapes = ((n, p.shape, p.device) for n, p in module.named_parameters())
    return tuple(plain), tuple(shapes)


def _try(module: nn.Module) -> bool | None:
    ran = None
    try:
        layer = _copy(module)
        for x in _inputs(layer):
            found = _scale_free(layer, x)
            if found:
                return True
            ran = found if ran is None else ran
    except Exception:  # whatever another's code may raise
        return None
    return ran


def _copy(module: nn.Module) -> nn.Module:
    """The layer in float32 on a device that computes, at weights unlike each other."""
    held = vars(module).values()  # a pruned weight is no leaf, which cannot be copied as it is
    computed = {id(t): t.detach().clone() for t in held if isinstance(t, Tensor) and not t.is_leaf}
    layer = copy.deepcopy(module, computed)
    if any(p.is_meta for p in layer.parameters()):
        layer.to_empty(device="cpu")
        for buffer in layer.buffers():
            buffer.zero_()
    layer.float().train()
    with torch.no_grad():
        for p in layer.parameters():
            values = torch.linspace(0.5, 1.5, p.numel(), device=p.device, dtype=p.dtype)
            p.copy_(values.view(p.shape))
    return layer


def _inputs(layer: nn.Module) -> Iterator[Tensor]:
    """Generic inputs of the shapes that norm layers take, for as many channels as it has."""
    whole = max(layer.parameters(), key=Tensor.numel)
    d, s = whole.numel(), whole.shape
    draw = torch.Generator().manual_seed(0)
    flat = ((4, 3, d), (4, d, 3, 3), (4, d, 5), (4, d), (2, 3, 3, d), (2, d, 3, 3, 3))
    for shape in flat if per_channel(whole) else ((4, 3, *s), (4, *s)):
        x = torch.randn(shape, generator=draw, device="cpu") * _SIZE + 1
        yield x.to(whole.device)


def _scale_free(layer: nn.Module, x: Tensor) -> bool | None:
    first, second = _out(layer, x), _out(layer, x * _FACTOR)
    if first is None or second is None:
        return None
    same = bool((first - second).abs().max() <= _CLOSE * first.abs().max())
    return same and len(first.unique()) > x.numel() / 2 and _value_by_value(layer, x, first)


def _value_by_value(layer: nn.Module, x: Tensor, out: Tensor) -> bool:
    """Whether values of more than one dimension scale the output one by one, as no matrix does."""
    whole = max(layer.parameters(), key=Tensor.numel)
    if per_channel(whole):
        return True
    with torch.no_grad():
        whole.view(-1)[0] += 1
        other = _out(layer, x)
        whole.view(-1)[0] -= 1
    if other is None:
        return False
    return not (other != out).flatten(x.ndim - whole.ndim)[..., 1:].any()


def _out(layer: nn.Module, x: Tensor) -> Tensor | None:
    """What the layer makes of an input, of the same shape; None where it takes none of that."""
    kind = x.device.type
    with torch.no_grad(), torch.autocast(kind, enabled=False), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            out = layer.forward(x.clone())
        except Exception:  # not a shape it takes
            return None
    return out.float() if isinstance(out, Tensor) and out.shape == x.shape else None
