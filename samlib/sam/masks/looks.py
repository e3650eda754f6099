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
_TRIED: WeakKeyDictionary[type, dict] = WeakKeyDictionary()


def per_channel(parameter: Tensor) -> bool:
    """Whether a parameter has one value per channel: all its dimensions but one are 1."""
    return parameter.numel() == max(parameter.shape, default=1)


def could_normalize(module: nn.Module) -> bool:
    """Whether a module is built as a normalization layer: it holds values per channel alone.

    torch's own layers, and what derives from them, are known by type and need no look.
    """
    bases = (b for b in type(module).__mro__ if b is not nn.Module)
    if any(b.__module__.startswith("torch.nn.modules.") for b in bases):
        return False
    return next(module.parameters(), None) is not None and all(
        map(per_channel, module.parameters())
    )


def normalizes(module: nn.Module) -> bool | None:
    """Whether a module that `could_normalize` does so; None where its forward pass cannot be tried.

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
    first = next(layer.parameters())
    d = max(p.numel() for p in layer.parameters())
    draw = torch.Generator().manual_seed(0)
    for shape in ((4, 3, d), (4, d, 3, 3), (4, d, 5), (4, d), (2, 3, 3, d), (2, d, 3, 3, 3)):
        x = torch.randn(shape, generator=draw, device="cpu") * _SIZE + 1
        yield x.to(first.device)


def _scale_free(layer: nn.Module, x: Tensor) -> bool | None:
    kind = x.device.type
    with torch.no_grad(), torch.autocast(kind, enabled=False), torch.random.fork_rng(devices=[]):
        outs = []
        for given in (x, x * _FACTOR):
            torch.default_generator.manual_seed(0)
            try:
                out = layer.forward(given.clone())
            except Exception:  # not a shape it takes
                return None
            if not (isinstance(out, Tensor) and out.shape == x.shape):
                return None
            outs.append(out.float())
    first, second = outs
    same = bool((first - second).abs().max() <= _CLOSE * first.abs().max())
    return same and len(first.unique()) > x.numel() / 2
