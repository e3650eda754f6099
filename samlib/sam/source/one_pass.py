"""Sources without a pass of their own: a step is one pass, at w + eps."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from samlib.errors import ConfigError
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

    def direction(self, mask, gradient, optimizers):
        """g~_(t-1)."""
        return self.held(mask.entries, "last")

    def after_step(self, mask, refresh):
        """Keep the gradient."""
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

    def direction(self, mask, gradient, optimizers):
        """The buffers on the mask; None before the optimizer's first step."""
        states = [_state(optimizers, e.parameter) for e in mask.entries]
        self.ready = any(states)
        if not self.ready:
            _refuse_without_momentum(optimizers)
            return None
        pairs = zip(states, mask.entries, strict=True)
        return on(mask.entries, [_buffer(s, e.parameter) for s, e in pairs])


def _state(optimizers: Sequence[Optimizer], parameter: Tensor) -> dict:
    return next((o.state[parameter] for o in optimizers if parameter in o.state), {})


def _buffer(state: dict, parameter: Tensor) -> Tensor:
    for name in ("momentum_buffer", "exp_avg"):
        if state.get(name) is not None:
            return state[name]
    if state:
        raise ConfigError(f"source Momentum: the optimizer keeps no momentum but {[*state]}")
    return torch.zeros_like(parameter)  # a parameter that has not been stepped


def _refuse_without_momentum(optimizers: Sequence[Optimizer]) -> None:
    if not optimizers:
        raise ConfigError("source Momentum reads the optimizer: give perturbed that, too")
    if any(group.get("momentum", 1) == 0 for o in optimizers for group in o.param_groups):
        raise ConfigError("source Momentum: the optimizer has momentum 0; choose another source")


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
        if every < 1:
            raise ConfigError(f"every must be at least 1, not {every!r}")
        self.every, self.factor, self.steps, self.anchored = every, _sign(sign), 0, False

    def begin(self, resumed):
        """Other coordinates have no anchor yet."""
        super().begin(resumed)
        self.anchored = self.anchored and resumed

    def plan(self, mask, perturb):
        """Whether a round ends with this step."""
        self.steps += 1
        return self.steps % self.every == 0

    def direction(self, mask, gradient, optimizers):
        """D; zero in the first round."""
        drift = self.held(mask.entries, "drift")
        if not self.anchored:
            torch._foreach_copy_(self.held(mask.entries, "anchor"), _weights(mask))
            self.anchored = True
        return drift

    def after_step(self, mask, refresh):
        """At the end of a round, measure its way."""
        if refresh and self.anchored:
            anchor, now = self.held(mask.entries, "anchor"), _weights(mask)
            drift = self.held(mask.entries, "drift")
            torch._foreach_copy_(drift, torch._foreach_sub(now, anchor))
            torch._foreach_copy_(anchor, now)
            self.ready = True


def _weights(mask) -> list[Tensor]:
    return on(mask.entries, [e.parameter.detach() for e in mask.entries])


class Noise(Source):
    """A random direction, normal on every coordinate: the control that ships with OBF's code.

    Drawn on the CPU, so that every device sees the same, in a generator of its own.
    """

    own_pass = False
    tensors = ("noise",)

    def __init__(self, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)

    def begin(self, resumed):
        """Noise on other coordinates is as good."""

    def plan(self, mask, perturb):
        """Draw this step's direction."""
        for t in self.held(mask.entries, "noise"):
            t.copy_(torch.randn(t.shape, generator=self.generator, dtype=t.dtype))
        return False

    def direction(self, mask, gradient, optimizers):
        """The draw."""
        return self.held(mask.entries, "noise")
