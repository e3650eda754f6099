"""A model in evaluation mode for a while: for whatever is computed on it in between."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and full precision inside the block; every module's own mode after it."""
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device.type
    model.eval()
    try:
        # An outer autocast would round away what small steps change.
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
