"""The family by name: each member as one answer to four questions, with its authors' defaults.

    along what (`source`) · how far (`radius`) · when (`when`) · what descends (`descent`)

and perhaps something around the whole step. Sources and quirks of each are in the parts'
docstrings; what could not be sourced is said to be ours. A member of your own is a line in
`MEMBERS`, and a class where none of the parts is its answer.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from samlib.errors import ConfigError, choose
from samlib.sam import controls, source
from samlib.sam.around import Slow, Stretch
from samlib.sam.descent import Descent, Hardest, Reuse, Subtract
from samlib.sam.geometry import Geometry
from samlib.sam.masks.base import Mask
from samlib.sam.perturbation import Perturbation, refuse_pairs
from samlib.sam.radius import Radius
from samlib.sam.sampa import Aux, Mix
from samlib.sam.step import sam_step
from samlib.sam.stepper import Stepper
from samlib.sam.when import Adaptive, Every, Sometimes, When


@dataclass(frozen=True)
class Setting:
    """What some members must know of a run.

    Attributes:
        seed: of what they draw, each from a generator of its own.
        lr: the largest learning rate, for a radius that follows it.
        steps: of the whole run, for what changes over it.
        epochs: of the whole run, for what begins late.
        logits: a forward pass on one batch of the whole run, for IRE.
    """

    seed: int = 0
    lr: float | None = None
    steps: int | None = None
    epochs: int | None = None
    logits: Callable[[], Tensor] | None = None

    def known(self, name: str) -> Any:
        """A field that a member cannot do without.

        Raises:
            ConfigError: it is not given.
        """
        value = getattr(self, name)
        if value is None:
            raise ConfigError(f"this member needs to know {name}: give its Setting one")
        return value

    @property
    def steps_per_epoch(self) -> int:
        """The round of a drift: shorter than that, SGD's last way is its momentum."""
        return max(1, self.known("steps") // self.known("epochs"))


Part = Callable[..., Any]  # of a Setting and options of its own


class Member(NamedTuple):
    """The four answers and what is around them, each made for a run; and passes per step."""

    source: Part = lambda run: source.Gradient()
    radius: Part = lambda run: Radius()
    when: Part = lambda run: When()
    descent: Part = lambda run: Descent()
    around: Part = lambda run: sam_step
    passes: str = "2"


def _following(follows: Literal["lr", "sqrt_lr"]) -> Part:
    return lambda run: Radius(follows=follows, largest_lr=run.known("lr"))


def _ire(run: Setting, kappa: float = 1.0, rank: float = 0.1, every: int = 10) -> Stretch:
    # kappa is ours: the released default, 0, leaves it out. The start is theirs: epoch 70 of 200.
    start = int(0.35 * run.known("epochs"))
    return Stretch(kappa, run.known("logits"), rank=rank, every=every, start=start, seed=run.seed)


MEMBERS: dict[str, Member] = {
    "sam": Member(),
    "usam": Member(radius=lambda run: Radius(free=True)),
    "vasso": Member(source=lambda run, theta=0.9: source.Mean(theta)),
    "fsam": Member(source=lambda run, sigma=1.0, lam=0.6: source.Residual(sigma, lam)),
    "obf": Member(
        source=lambda run, lam=1e-3, gamma=1.0, probabilities="sigmoid": source.OtherLoss(
            lam=lam, gamma=gamma, probabilities=probabilities
        )
    ),
    "async_sam": Member(source=lambda run: source.LastClean()),
    "eigen_sam": Member(
        source=lambda run, alpha=0.2, every=100, power=5: source.Eigen(
            alpha=alpha, every=every, power=power, seed=run.seed
        ),
        radius=lambda run: Radius(free=True),
        passes="2 + 6 per 100 steps",
    ),
    # one pass; the first is a control
    "random_sam": Member(source=lambda run: controls.Noise(seed=run.seed), passes="1"),
    "msam": Member(source=lambda run: source.Momentum(sign=-1), passes="1"),
    "msam_up": Member(source=lambda run: source.Momentum(sign=1), passes="1"),
    "last": Member(source=lambda run: source.Last(), passes="1"),
    "lesam": Member(source=lambda run: source.Drift(run.steps_per_epoch, sign=-1), passes="1"),
    "drift_on": Member(source=lambda run: source.Drift(run.steps_per_epoch, sign=1), passes="1"),
    # another descent; GSAM's radius runs from 0, which is ours: the authors' range is per task
    "gsam": Member(radius=_following("lr"), descent=lambda run, alpha=0.4: Subtract(alpha)),
    "looksam": Member(
        when=lambda run, k=10: Every(k),
        descent=lambda run, alpha=0.7: Reuse(alpha),
        passes="1 + 1/10",
    ),
    "looksam_mask": Member(
        when=lambda run, k=10: Every(k),
        descent=lambda run, alpha=0.7: Reuse(alpha, over="mask"),
        passes="1 + 1/10",
    ),
    "sampa": Member(source=lambda run: Aux(), descent=lambda run, lam=0.2: Mix(lam)),
    # beta 1, as the command line's default: a mask takes the place of the random tensors
    "esam": Member(descent=lambda run, gamma=0.5: Hardest(gamma)),
    # p, k and the thresholds are ours
    "ss_sam": Member(when=lambda run, p=0.5: Sometimes(p, seed=run.seed), passes="1 + 1/2"),
    "every_k": Member(when=lambda run, k=5: Every(k), passes="1 + 1/5"),
    "ae_sam": Member(when=lambda run: Adaptive(run.known("steps")), passes="1 to 2"),
    # controls that test an explanation, ours but for the penalty
    "downhill": Member(source=lambda run: controls.Downhill()),
    "felt_by_mask": Member(descent=lambda run: controls.Felt("mask")),
    "felt_by_others": Member(descent=lambda run: controls.Felt("others")),
    "penalty": Member(descent=lambda run: controls.Penalty(), passes="1, a double backward"),
    "rho_lr": Member(radius=_following("lr")),
    "rho_root_lr": Member(radius=_following("sqrt_lr")),
    # around
    "lookbehind": Member(around=lambda run, k=2, alpha=0.5: Slow(k, alpha), passes="4"),
    "ire": Member(around=_ire, passes="2 + 1 per 10 steps"),
}


_ANY = Setting(lr=1.0, steps=1, epochs=1, logits=lambda: torch.zeros(()))


def losses(
    stepper: Stepper | None, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0
) -> Tensor | tuple[Tensor, Tensor]:
    """What a closure that classifies returns: the mean loss, or what the member wants of it.

    Args:
        stepper: the member; None is the base optimizer.
        logits: (n, classes).
        labels: (n,) int64.
        label_smoothing: of the cross-entropy.
    """
    reduction = "none" if stepper and stepper.descent.per_example else "mean"
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction=reduction)
    ascended = stepper and stepper.perturbation.source
    if isinstance(ascended, source.OtherLoss):
        return loss, source.obf(logits, labels, **ascended.options)
    return loss


def make(
    name: str,
    geometry: Geometry,
    rho: float,
    mask: Mask,
    run: Setting | None = None,
    **options: Any,
) -> Stepper:
    """A member over a mask and a geometry.

    Args:
        name: of `MEMBERS`.
        geometry, rho, mask: as of a `Perturbation`.
        run: what it must know of the run.
        options: the member's own, named in its line of `MEMBERS`, where they are not to be the
            authors' (`make("lookbehind", ..., k=4)`); and of the `Perturbation`: `batchnorm`,
            `radius_over`, `start`, `end`.

    Raises:
        ConfigError: an unknown name or option, a pair of parts that exclude each other, or what it
            must know of the run is not given.
    """
    member, run = MEMBERS[choose("member", name, MEMBERS)], run or Setting()
    own = {"batchnorm", "radius_over", "start", "end"}.union(*map(_options, member[:-1]))
    for option in options:
        choose(f"option of {name}", option, sorted(own))
    source, radius, when, descent, around = (
        part(run, **{n: options.pop(n) for n in _options(part) if n in options})
        for part in member[:-1]
    )
    perturbation = Perturbation(
        geometry, rho, mask, source=source, radius=radius, when=when, **options
    )
    stepper = Stepper(name, perturbation, descent, around)
    stepper.descent.check(perturbation)
    return stepper


def _options(part: Part) -> list[str]:
    """What may be chosen of a part, in its line of `MEMBERS`."""
    return list(inspect.signature(part).parameters)[1:]


def check(
    name: str, geometry: Geometry, radius_over: str, batchnorm: str, chooser: str | None = None
) -> None:
    """Refuse a member by name, before there is a network.

    Args:
        name: of `MEMBERS`.
        geometry, radius_over, batchnorm: as of a `Perturbation`.
        chooser: a mask that chooses its coordinates by the ascent's gradient.

    Raises:
        ConfigError: an unknown name, or a pair of parts that exclude each other.
    """
    member = MEMBERS[choose("member", name, MEMBERS)]
    parts = member.source(_ANY), member.radius(_ANY), member.when(_ANY)
    refuse_pairs(geometry, radius_over, batchnorm, *parts, chooser)
    names = ("source", "radius", "when", "radius_over")
    stand_in = SimpleNamespace(**dict(zip(names, (*parts, radius_over), strict=True)))
    member.descent(_ANY).check(cast(Perturbation, stand_in))


def kept(name: str, mask: Mask) -> int:
    """Bytes that a member keeps from step to step under a mask, beside the optimizer's."""
    everything = sum(p.nbytes for _, p in mask.trainable)
    masked = sum(e.count * e.parameter.element_size() for e in mask.entries)
    member = MEMBERS[choose("member", name, MEMBERS)]
    descent, around = member.descent(_ANY), member.around(_ANY)
    found = len(member.source(_ANY).tensors) * masked
    found += len(descent.tensors) * (everything if descent.everything else masked)
    return found + len(getattr(around, "tensors", ())) * everything


def table(mask: Mask) -> str:
    """Passes per step and bytes kept from step to step, of every member under a mask."""
    lines = [f"{'member':16}{'passes':22}{'bytes kept':>14}"]
    lines += [f"{n:16}{m.passes:22}{kept(n, mask):14,}" for n, m in MEMBERS.items()]
    return "\n".join(lines)
