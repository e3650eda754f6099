"""The training loop a peer would write, for `bench epoch` to hold ours against.

fp32 and contiguous; torchvision's transforms on one Pillow image after the other, in two worker
processes of a DataLoader that are started anew every epoch; loss and accuracy read after every
step. AutoAugment is torchvision's CIFAR-10 policy as it comes, which fills and interpolates
otherwise than the SAM-ON authors' but works as hard.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from samlib.data.augment import padding_for
from samlib.data.info import Info
from samlib.data.splits import Splits
from samlib.errors import choose
from samlib.trainer.build import build_model
from samlib.trainer.config import RunConfig

AUGMENTATIONS = ("none", "basic", "autoaugment")
WORKERS = 2


def augmentation(name: str, info: Info) -> Callable[[Image.Image], Image.Image]:
    """Augments a colour image, drawing from the process's own generator.

    Raises:
        ConfigError: an unknown name.
    """
    steps: list[Callable] = []
    if choose("augmentation", name, AUGMENTATIONS) != "none":
        padding = padding_for(info.image_size)
        steps += [transforms.RandomCrop(info.image_size, padding=padding)]
        steps += [transforms.RandomHorizontalFlip()]
    if name == "autoaugment":
        steps += [transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)]
    return transforms.Compose(steps)


class Images(Dataset):
    """Images (N, H, W, 3) uint8 with their labels (N,), augmented one by one."""

    def __init__(self, images: np.ndarray, labels: list[int], name: str, info: Info):
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                augmentation(name, info),
                transforms.ToTensor(),
                transforms.Normalize(info.mean, info.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


def pixels(splits: Splits) -> np.ndarray:
    """The training images as Pillow takes them: (N, H, W, C) uint8."""
    return splits.train_images.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def plain_loop(
    config: RunConfig, splits: Splits, device: torch.device
) -> Callable[[], tuple[float, float]]:
    """What trains one more epoch of SGD with every call and returns its loss and accuracy in %.

    Weights begin as in `train`; the precision is fp32 whatever the configuration says.
    """
    images = Images(pixels(splits), splits.train_labels.tolist(), config.augment, splits.info)
    loader = DataLoader(
        images,
        batch_size=config.batch_size,
        shuffle=True,
        num_workers=WORKERS,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(config.seed),
    )
    model = build_model(config).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.epochs)

    def epoch() -> tuple[float, float]:
        model.train()
        loss_sum, correct = 0.0, 0
        for x, y in loader:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            optimizer.zero_grad()
            logits = model(x)
            loss = F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(y)
            correct += (logits.argmax(1) == y).sum().item()
        scheduler.step()
        return loss_sum / len(images), 100 * correct / len(images)

    return epoch
