"""How a run's final weights do on corrupted and attacked test images."""

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from samlib.data.splits import mean_std
from samlib.measures import corruptions
from samlib.measures.attacks import attacked

if TYPE_CHECKING:
    from samlib.trainer.loop import Trainer


ATTACKED = 500  # test images attacked, the first ones: an attack costs ten gradients each
IN_SHORT = 500  # test images of `robustness_in_short`
ATTACKED_IN_SHORT = 128


class Attack(NamedTuple):
    """One attack; see `attacks.attacked`. The radius is in pixels in [0, 1]."""

    norm: str
    radius: float
    step: float


# The radii of the authors' ImageNet table (poster; specification 4.3), and larger ones under which
# networks for 8 x 8 and 32 x 32 pixels lose as much as theirs did for 224 x 224.
RADII = (
    ("l2", 0.25),
    ("l2", 0.5),
    ("linf", 0.25 / 255),
    ("linf", 0.5 / 255),
    ("linf", 4 / 255),
    ("linf", 16 / 255),
)
# With which SAM is compared with adversarial training by Zhang et al. (specification 6).
DUALITY = (
    Attack("linf", 1 / 255, 0.25 / 255),
    Attack("linf", 2 / 255, 0.5 / 255),
    Attack("l2", 16 / 255, 2 / 255),
    Attack("l2", 32 / 255, 4 / 255),
)
ATTACKS = (*(Attack(norm, radius, radius / 4) for norm, radius in RADII), *DUALITY)


def robustness(run: "Trainer") -> dict:
    """Test accuracies in percent: clean, corrupted and attacked.

    Returns:
        `clean`; `corruptions`, by name a list over severities 1 to 5; `corrupted`, the mean of
        those; `attacks`, a list of norm, radius, step and accuracy on the first `attacked` test
        images, whose clean accuracy is `attacked_clean`.
    """
    return _robustness(run, None, ATTACKED, ATTACKS)


def robustness_in_short(run: "Trainer") -> dict:
    """`robustness` of the first test images, with the attacks of `DUALITY` alone: a cheap one."""
    return _robustness(run, IN_SHORT, ATTACKED_IN_SHORT, DUALITY)


def _robustness(
    run: "Trainer", count: int | None, attacked_count: int, attacks: Sequence[Attack]
) -> dict:
    images, labels = run.splits.test_images[:count], run.splits.test_labels[:count]
    found = {name: _corrupted(run, name, images, labels) for name in corruptions.names()}
    few, of_few = images[:attacked_count], labels[:attacked_count]
    return {
        "clean": run.accuracy(images, labels),
        "corruptions": found,
        "corrupted": sum(map(sum, found.values())) / sum(map(len, found.values())),
        "attacked": len(few),
        "attacked_clean": run.accuracy(few, of_few),
        "attacks": [
            attack._asdict() | {"accuracy": _attacked(run, few, of_few, attack)}
            for attack in attacks
        ],
    }


def _corrupted(run: "Trainer", name: str, images: Tensor, labels: Tensor) -> list[float]:
    # The same noise for every method: it follows from the seed and the corruption alone.
    draw = torch.Generator().manual_seed(run.config.seed * 1_000_003 + zlib.crc32(name.encode()))
    return [
        run.accuracy(corruptions.corrupt(images, name, severity, draw), labels)
        for severity in corruptions.SEVERITIES
    ]


def _attacked(run: "Trainer", images: Tensor, labels: Tensor, attack: Attack) -> float:
    run.model.eval()
    mean, std = mean_std(run.splits.info, run.device)
    gradients = [p.requires_grad for p in run.model.parameters()]
    run.model.requires_grad_(False)  # of the pixels alone

    def logits(x: Tensor) -> Tensor:
        return run.forward((x - mean) / std)

    try:
        moved = attacked(
            logits,
            images.float() / 255,
            labels,
            classes=run.splits.info.classes,
            **attack._asdict(),
        )
        with torch.no_grad():
            right = logits(moved).argmax(1) == labels
    finally:
        for p, wanted in zip(run.model.parameters(), gradients, strict=True):
            p.requires_grad_(wanted)
    return 100 * right.sum().item() / len(labels)
