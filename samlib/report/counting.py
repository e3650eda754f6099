"""Counted, not measured: the numbers an ascent step moves, the labels that noise makes wrong."""

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from samlib.data.info import INFO
from samlib.sam.masks.by_name import MASKS
from samlib.study.methods import SPARSE_MASKS, Method
from samlib.trainer.build import build_model
from samlib.trainer.config import RunConfig

_AXES = {"output_scales": 0, "input_scales": 1}


def wrong_labels(base: RunConfig) -> float:
    """Share of the training labels that noise is expected to make wrong; see `make_splits`."""
    return base.label_noise * (1 - 1 / INFO[base.dataset].classes)


def whole_tensors(base: RunConfig, method: Method) -> list[str] | None:
    """Names of the parameters a method's mask holds; None if it picks single coordinates."""
    if method.mask in SPARSE_MASKS:
        return None
    entries = MASKS[method.mask](_shapes(base), base).entries
    return [e.name for e in entries] if all(e.index is None for e in entries) else None


def moved(base: RunConfig, method: Method) -> int:
    """Coordinates of a method's mask; for channel scales, those the network feels.

    Counted on the model's shapes; nothing is computed with it.
    """
    model = _shapes(base)
    mask = MASKS[method.mask](model, base)
    axis = _AXES.get(method.geometry)
    if axis is None:
        return mask.count
    scales = sum(entry.parameter.shape[axis] for entry in mask.entries)
    return scales - (undone(base) if axis == 0 else 0)


def undone(base: RunConfig) -> int:
    """Output channels of the convolutions that only batch norm reads, which undoes their scale."""
    model = _shapes(base)
    modules = dict(model.named_modules())
    if not any(isinstance(m, _BatchNorm) for m in modules.values()):
        return 0

    def called(node: fx.Node, kind: type[nn.Module]) -> bool:
        return node.op == "call_module" and isinstance(modules[node.target], kind)

    return sum(
        modules[node.target].out_channels
        for node in fx.symbolic_trace(model).graph.nodes
        if called(node, nn.Conv2d) and all(called(reader, _BatchNorm) for reader in node.users)
    )


def _shapes(base: RunConfig) -> nn.Module:
    with torch.device("meta"):
        return build_model(base)
