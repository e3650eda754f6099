"""Where the gain sits: a run beside its twin, the base optimizer's run of the same seed.

Two questions on the pair's final weights (specification 5). What does a network gain from the norm
layers of the other? And is the pair connected where only one layer moves from its weights to the
other's while the rest stays (Adilova, Andriushchenko, Kamp, Fischer and Jaggi, 2024, "Layer-wise
linear mode connectivity")? BatchNorm's statistics belong to the weights and are made anew for every
mixture of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samlib.measures.curvature import IMAGES
from samlib.sam.masks.norms import norm_parameters
from samlib.trainer.diagnostics import finite, recalibrated

if TYPE_CHECKING:
    from samlib.trainer.loop import Trainer

Weights = dict[str, Tensor]


def connectivity(run: "Trainer", twin: Weights) -> dict:
    """Accuracy with the norm layers exchanged, and the loss along every single layer.

    Args:
        run: with its final weights.
        twin: those of the base optimizer's run of the same seed.

    Returns:
        `accuracy` on the test images in percent, statistics made anew from the training images:
        `own`, `twin`, `own_with_twin_norms` and `twin_with_own_norms`; `images`, how many training
        images the losses are over; and what `paths` returns.
    """
    own = _copy(run.model.state_dict())
    twin = {name: w.to(run.device) for name, w in twin.items()}
    images = run.splits.train_images[:IMAGES]
    x, y = run.inputs(images), run.splits.train_labels[: len(images)]
    with _kept(run.model):
        return {
            "accuracy": {
                name: _accuracy(run, weights) for name, weights in swaps(run.model, own, twin)
            },
            "images": len(x),
            **paths(run.model, own, twin, lambda: _loss(run.model, x, y, run.config.batch_size)),
        }


def swaps(model: nn.Module, own: Weights, twin: Weights) -> Iterator[tuple[str, Weights]]:
    """Both networks, and both with the affine parameters of the other's norm layers, by name."""
    norm = norm_parameters(model)
    names = [name for name, p in model.named_parameters() if id(p) in norm]
    yield "own", own
    yield "twin", twin
    yield "own_with_twin_norms", own | {name: twin[name] for name in names}
    yield "twin_with_own_norms", twin | {name: own[name] for name in names}


def paths(model: nn.Module, own: Weights, twin: Weights, loss: Callable[[], float]) -> dict:
    """Losses where one layer, or all, are `own`'s, midway, and `twin`'s.

    Args:
        model: takes the weights; it ends with some of them.
        own, twin: its whole state, twice.
        loss: of the model as it is when called.

    Returns:
        `whole`: three losses where all layers move. `layers`: for each its name as `layer`, and
        three losses as `own` and three as `twin`, after the network that all other layers are of.
        None for a loss that is not finite.
    """

    def at(weights: Weights) -> float | None:
        model.load_state_dict(weights)
        return finite(loss())

    parameters = [name for name, _ in model.named_parameters()]
    half = {name: torch.lerp(own[name], twin[name], 0.5) for name in parameters}
    first, last = at(own), at(twin)
    found = []
    for layer, names in layers(model).items():
        middle, there, back = ({name: of[name] for name in names} for of in (half, twin, own))
        found.append(
            {
                "layer": layer,
                "own": [first, at(own | middle), at(own | there)],
                "twin": [at(twin | back), at(twin | middle), last],
            }
        )
    return {"whole": [first, at(own | half), last], "layers": found}


def barrier(losses: list[float | None]) -> float:
    """Loss midway minus the mean of the ends', of one path; NaN where one is not finite."""
    start, middle, end = (float("nan") if loss is None else loss for loss in losses)
    return middle - (start + end) / 2


def layers(model: nn.Module) -> dict[str, list[str]]:
    """Names of the parameters of each module that has any of its own, in the model's order.

    A parameter of the model itself is a layer of its own.
    """
    found: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        found.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return found


def _accuracy(run: "Trainer", weights: Weights) -> float:
    run.model.load_state_dict(weights)
    anew = run.recalibrated_accuracy()
    return run.accuracy_on("test") if anew is None else anew


@torch.no_grad()
def _loss(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> float:
    """Mean cross-entropy with BatchNorm's statistics of these very images."""
    parts = [part for part in x.split(batch_size) if len(part) > 1]  # of one there is no variance
    with recalibrated(model, parts):
        total = sum(
            F.cross_entropy(model(a), b, reduction="sum").item()
            for a, b in zip(x.split(batch_size), y.split(batch_size), strict=True)
        )
    return total / len(y)


def _copy(weights: Weights) -> Weights:
    return {name: w.clone() for name, w in weights.items()}


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """The model's state as it was, after the block."""
    before = _copy(model.state_dict())
    try:
        yield
    finally:
        model.load_state_dict(before)
