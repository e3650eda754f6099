"""A model's loss, and its gradient, at weights that are not its own."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samlib.errors import ConfigError
from samlib.sam.masks.base import Mask


def masked_weights(model: nn.Module, mask: Mask) -> dict[str, Tensor]:
    """The mask's parameters by name, detached.

    Raises:
        ConfigError: the mask was made of another model, or selects single coordinates.
    """
    own = dict(model.named_parameters())
    for entry in mask.entries:
        if own.get(entry.name) is not entry.parameter:
            raise ConfigError(f"the mask's {entry.name} is not a parameter of the model given")
        if entry.index is not None:
            raise ConfigError(
                f"the mask selects single coordinates of {entry.name}; sharpness is measured over "
                "whole parameters, such as those of all_parameters, only_norm and no_norm"
            )
    return {entry.name: entry.parameter.detach() for entry in mask.entries}


def cross_entropy_at(
    model: nn.Module,
    weights: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean cross-entropy of a batch with some of the model's parameters replaced.

    Raises:
        ConfigError: the model's output are no logits, or a label is none of its classes.
    """
    device = next(iter(weights.values())).device
    x, y = x.to(device), y.to(device)
    logits = torch.func.functional_call(model, weights, (x,))
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(f"the model must return logits of shape (n, classes), not {got}")
    if y.min() < 0 or y.max() >= logits.shape[1]:  # on a GPU the loss would abort the process
        raise ConfigError(f"labels must be from 0 to {logits.shape[1] - 1}, the model's classes")
    return F.cross_entropy(transform(logits) if transform else logits, y)


def gradients(loss: Tensor, weights: list[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Gradient of a loss in some weights, zeros in those it does not use.

    Raises:
        ConfigError: it uses none of them: the mask is of parameters the forward pass ignores,
            or the model detaches its output.
    """
    grads = (None,)
    if loss.requires_grad:
        grads = torch.autograd.grad(loss, weights, create_graph=create_graph, allow_unused=True)
    if all(g is None for g in grads):
        raise ConfigError("the model's loss has no gradient in any parameter of the mask")
    pairs = zip(grads, weights, strict=True)
    return [torch.zeros_like(w) if g is None else g for g, w in pairs]


def require_count(name: str, value: int) -> None:
    """Raise a ConfigError unless the value is an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be an integer >= 1, not {value!r}")


def require_examples(inputs: Tensor, labels: Tensor) -> int:
    """Number of examples; raise a ConfigError unless there are as many labels, of type int64."""
    if labels.ndim != 1 or labels.dtype != torch.int64 or len(labels) == 0:
        kind = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise ConfigError(f"labels must be int64 of shape (n,), n >= 1, not {kind}")
    if inputs.ndim < 2 or len(inputs) != len(labels):
        raise ConfigError(f"{len(labels)} labels do not fit inputs of {tuple(inputs.shape)}")
    return len(labels)
