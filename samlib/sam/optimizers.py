"""The optimizers of a step: one or several, checked, and what drops their gradients."""

from collections.abc import Sequence

import torch
from torch.optim import Optimizer

from samlib.errors import ConfigError
from samlib.sam import checks


def one_or_several(given: Optimizer | Sequence[Optimizer]) -> Sequence[Optimizer]:
    """One or several as several, checked."""
    optimizers = given if isinstance(given, Sequence) else (given,)
    for each in optimizers:
        if isinstance(each, torch.optim.LBFGS):
            raise ConfigError(
                "LBFGS runs the closure as often as it likes, which a step of two passes cannot: "
                "use another optimizer"
            )
        whole = hasattr(each, "step") and hasattr(each, "zero_grad")
        if not whole or isinstance(each, type):
            raise ConfigError(f"optimizer must be a torch.optim.Optimizer, not {each!r}")
    if not optimizers:
        raise ConfigError("optimizer must be an optimizer or several, not an empty list")
    if len(optimizers) > 1:
        groups = (group for each in optimizers for group in getattr(each, "param_groups", ()))
        weights = [id(p) for group in groups for p in group["params"]]
        if len(weights) > len(set(weights)):
            raise ConfigError("two of the optimizers hold the same parameter: it would step twice")
    return optimizers


def zero_grad(optimizers: Sequence[Optimizer]) -> None:
    """Have every optimizer drop its gradients."""
    for each in optimizers:
        checks.dropped(each)
