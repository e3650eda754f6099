"""Sources without a pass of their own: a step is one pass, at w + eps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from samlib.errors import ConfigError, within
from samlib.sam.masks.base import Mask
from samlib.sam.source.base import Source
from samlib.sam.state import grads_on, on


class Last(Source):
    """The gradient that the optimizer stepped with last, g~_(t-1), which descent needs anyway.

    Becker et al. (2024, A.7) tried it for full SAM.
    """

    own_pass = False
    reads_grad = True
    ready = False
    tensors = ("last",)

    def direction(
        self, mask: Mask, gradient: list[Tensor] | None, optimizers: Sequence[Optimizer]
    ) -> list[Tensor]:
        """The gradient kept after the last step; zeros before the first."""
        return self.held(mask.entries, "last")

    def after_step(self, mask: Mask, refresh: bool) -> None:
        """Keep the gradient that the optimizer has stepped with."""
        torch._foreach_copy_(self.held(mask.entries, "last"), grads_on(mask.entries))
        self.ready = True


class Momentum(Source):
    """The optimizer's momentum: MSAM (Becker et al., 2024), eps = -rho buf / ||buf||.

    SGD's momentum buffer, or the first moment of Adam and Lion; nothing is kept. Minus is along the
    coming step; +1 goes back up, as VaSSO does. The authors keep the weights perturbed between
    steps, so that their decay acts at w + eps; here it acts at w.
    """

    own_pass = False
    ready = False

    def __init__(self, sign: int = -1):
        self.factor = _sign(sign)

    def direction(
        self, mask: Mask, gradient: list[Tensor] | None, optimizers: Sequence[Optimizer]
    ) -> list[Tensor] | None:
        """The buffers on the mask; None before the optimizer's first step."""
        _refuse_without_momentum(mask, optimizers)
        weights = [e.parameter for e in mask.entries]
        states: list[dict[str, Any]] = [
            next((o.state[p] for o in optimizers if p in o.state), {}) for p in weights
        ]
        self.ready = any(states)
        if not self.ready:
            return None
        return on(mask.entries, [_buffer(s, p) for s, p in zip(states, weights, strict=True)])


def _buffer(state: dict, parameter: Tensor) -> Tensor:
    for name in ("momentum_buffer", "exp_avg"):
        if state.get(name) is not None:
            return state[name]
    if state:
        raise ConfigError(f"source Momentum: the optimizer keeps no momentum but {[*state]}")
    return torch.zeros_like(parameter)  # a parameter that has not been stepped


def _refuse_without_momentum(mask: Mask, optimizers: Sequence[Optimizer]) -> None:
    """Raise a ConfigError where a weight of the mask is in a group of momentum 0, now or still."""
    if not optimizers:
        raise ConfigError("source Momentum reads the optimizer: give perturbed that, too")
    groups = (group for o in optimizers for group in o.param_groups)
    without = [group["params"] for group in groups if group.get("momentum", 1) == 0]
    if without:  # which groups hold the mask's weights is asked only then: a step is short
        ids = {id(p) for params in without for p in params}
        name = next((e.name for e in mask.entries if id(e.parameter) in ids), None)
        if name:
            raise ConfigError(
                f"source Momentum: the optimizer has momentum 0 for {name}; choose another source"
            )


def _sign(sign: int) -> float:
    if sign not in (-1, 1):
        raise ConfigError(f"sign must be 1 or -1, not {sign!r}")
    return float(sign)


class Drift(Source):
    """The way the weights went: the core of FedLESAM (Fan et al., 2024), eps = -rho D / ||D||.

    D = w_t - w_(t-every), measured every so many steps and constant between, as the difference of
    two rounds' global models is on a client. The released optimizer divides by the sum of the
    tensors' norms and its server shifts their order; neither is followed.

    Args:
        every: steps of a round.
        sign: -1 goes back up; +1 goes on, as MSAM does.
    """

    own_pass = False
    ready = False
    tensors = ("anchor", "drift")
    numbers = ("steps", "anchored")

    def __init__(self, every: int = 1, sign: int = -1):
        self.every = within("every", every, "[1, inf)", whole=True)
        self.factor, self.steps, self.anchored = _sign(sign), 0, False

    def begin(self, resumed: bool) -> None:
        """Other coordinates have no anchor yet."""
        super().begin(resumed)
        self.anchored = self.anchored and resumed

    def plan(self, mask: Mask, perturb: bool) -> bool:
        """Where a round begins, measure the way of the last one."""
        drift, begins = self.held(mask.entries, "drift"), self.steps % self.every == 0
        self.steps += 1
        if begins or not self.anchored:
            anchor = self.held(mask.entries, "anchor")
            now = on(mask.entries, [e.parameter.detach() for e in mask.entries])
            if begins and self.anchored:
                torch._foreach_copy_(drift, torch._foreach_sub(now, anchor))
                self.ready = True
            torch._foreach_copy_(anchor, now)
            self.anchored = True
        return False

    def direction(
        self, mask: Mask, gradient: list[Tensor] | None, optimizers: Sequence[Optimizer]
    ) -> list[Tensor]:
        """The way D of the last round, zero in the first."""
        return self.held(mask.entries, "drift")
