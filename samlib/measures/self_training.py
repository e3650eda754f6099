"""Gradual self-training: how far a network follows digits that turn, without their labels.

The test images are turned in steps. At each one the network labels the turned validation images,
whose true labels are not used, and trains on its own labels for a few epochs (Kumar, Ma and Liang,
2020, "Understanding self-training for gradual domain adaptation"). It goes on from the run's final
weights with the run's base optimizer, whatever the run's method was: a tenth of its learning rate,
constant, new momentum, no augmentation. Steps, epochs and rate are this study's own.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from samlib.errors import ConfigError
from samlib.sam.step import sam_step
from samlib.trainer.build import build_optimizer

if TYPE_CHECKING:
    from samlib.trainer.loop import Trainer

ANGLES = (10, 20, 30, 40, 50, 60)  # degrees, counter-clockwise
EPOCHS = 3  # per angle
SLOWER = 0.1  # share of the run's learning rate


def self_training(run: "Trainer") -> dict:
    """Test accuracy in percent at every angle, before and after self-training up to it.

    Returns:
        `clean`, at no angle; `angles`; `before`, of the run's weights, and `after`, one accuracy
        per angle.

    Raises:
        ConfigError: the run holds no images out for validation.
    """
    splits, config = run.splits, run.config
    if not splits.count("validation"):
        raise ConfigError("self-training needs images that no label was used of: validation_size")
    tests = {angle: turned(splits.test_images, angle) for angle in ANGLES}
    found = {
        "clean": run.accuracy(splits.test_images, splits.test_labels),
        "angles": list(ANGLES),
        "before": [run.accuracy(tests[angle], splits.test_labels) for angle in ANGLES],
        "after": [],
    }
    kept = {name: w.clone() for name, w in run.model.state_dict().items()}
    optimizer = build_optimizer(config.replace(lr=SLOWER * config.lr), run.model)
    order = torch.Generator().manual_seed(config.seed)  # the same for every method
    try:
        for angle in ANGLES:
            images = turned(splits.val_images, angle)
            _train(run, optimizer, images, labelled(run, images), order)
            found["after"].append(run.accuracy(tests[angle], splits.test_labels))
    finally:
        optimizer.zero_grad()
        run.model.load_state_dict(kept)
        run.model.eval()
    return found


def turned(images: Tensor, angle: float) -> Tensor:
    """uint8 images turned counter-clockwise about their middle, black where nothing was."""
    from torchvision.transforms import InterpolationMode  # slow to import
    from torchvision.transforms.v2 import functional as transforms

    return transforms.rotate(images, angle, InterpolationMode.BILINEAR)


@torch.no_grad()
def labelled(run: "Trainer", images: Tensor) -> Tensor:
    """The network's own labels of uint8 images, (n,)."""
    run.model.eval()
    return run.forward(run.inputs(images)).argmax(1)


def _train(
    run: "Trainer",
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    order: torch.Generator,
) -> None:
    run.model.train()
    smoothing = run.config.label_smoothing
    for _ in range(EPOCHS):
        shuffled = torch.randperm(len(images), generator=order).to(images.device)
        for batch in shuffled.split(run.config.batch_size):
            x, y = run.inputs(images[batch]), labels[batch]
            sam_step(
                lambda x=x, y=y: F.cross_entropy(run.forward(x), y, label_smoothing=smoothing),
                optimizer,
                None,
            )
