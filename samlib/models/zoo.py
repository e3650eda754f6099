"""Networks by name: the paper's five and scaled-down relatives of each family.

Those of torchvision and timm are imported when they are built, which takes seconds.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

from torch import Tensor, nn

from samlib.errors import ConfigError, choose
from samlib.models.convnets import BasicBlock, Bottleneck, PreactBlock, ResNet


def _resnet(depth: int, **shape: int) -> ResNet:
    return ResNet(BasicBlock, widths=(16, 32, 64), depth=depth, stem=16, preact=False, **shape)


def _resnext(depth: int, groups: int, width: int, **shape: int) -> ResNet:
    widths = tuple(2 * groups * width * 2**i for i in range(3))
    block = partial(Bottleneck, groups=groups)
    stem = widths[0] // 4
    return ResNet(block, widths=widths, depth=depth, stem=stem, preact=False, **shape)


def _wrn(depth: int, widen: int, **shape: int) -> ResNet:
    widths = tuple(16 * widen * 2**i for i in range(3))
    return ResNet(PreactBlock, widths=widths, depth=(depth - 4) // 6, stem=16, preact=True, **shape)


def _patched(block: Callable, widen: int, *, preact: bool, **shape: int) -> ResNet:
    """Depth 10 behind 4 x 4 patches, which leave 8 x 8 positions of a 32-pixel image.

    The stem takes most of the work out of the first stage, so that two cores can train it.
    """
    widths = tuple(16 * widen * 2**i for i in range(3))
    return ResNet(block, widths=widths, depth=1, stem=widths[0], patch=4, preact=preact, **shape)


def _vit(
    patch: int,
    dim: int,
    depth: int,
    heads: int,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    dyt: bool = False,
) -> nn.Module:
    from samlib.models.transformers import DyT, ViT

    return ViT(
        img_size=image_size,
        patch_size=patch,
        in_chans=in_channels,
        num_classes=num_classes,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        norm_layer=DyT if dyt else None,
    )


def _resnet50(**shape: int) -> nn.Module:
    from samlib.models.resnet50 import ResNet50

    return ResNet50(**shape)


_ZOO: dict[str, Callable[..., nn.Module]] = {
    # the paper's models (specification 3.2 lists their exact parameter counts)
    "resnet56": partial(_resnet, 9),
    "resnext29_32x4d": partial(_resnext, 3, 32, 4),
    "wrn28_10": partial(_wrn, 28, 10),
    "vit_t": partial(_vit, 4, 192, 12, 3),
    "vit_s": partial(_vit, 4, 384, 12, 6),
    # ImageNet at 224 pixels
    "vit_s32": partial(_vit, 32, 384, 12, 6),
    "resnet50": _resnet50,
    # one GPU, hours: the WRN of the independent numbers in specification 4.7
    "wrn16_4": partial(_wrn, 16, 4),
    # scaled-down relatives for two CPU cores, and 32 x 32 images in patches or 8 x 8 images
    "wrn10_4_patch4": partial(_patched, PreactBlock, 4, preact=True),
    "wrn10_8_patch4": partial(_patched, PreactBlock, 8, preact=True),
    "resnet10_4_patch4": partial(_patched, BasicBlock, 4, preact=False),
    "vit_mini": partial(_vit, 8, 128, 6, 4),
    "resnet8": partial(_resnet, 1),
    "resnext11_4x2d": partial(_resnext, 1, 4, 2),
    "wrn10_1": partial(_wrn, 10, 1),
    "vit_micro": partial(_vit, 2, 48, 3, 3),
    # transformers without normalization
    "vit_t_dyt": partial(_vit, 4, 192, 12, 3, dyt=True),
    "vit_micro_dyt": partial(_vit, 2, 48, 3, 3, dyt=True),
}


def names() -> tuple[str, ...]:
    """Names `build` accepts."""
    return tuple(_ZOO)


def is_vit(name: str) -> bool:
    """Whether a model is a vision transformer, whose shape depends on the image size."""
    return name.startswith("vit_")


def build(name: str, *, num_classes: int, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """Build a model with freshly drawn weights from torch's global generator.

    Args:
        name: one of `names()`.
        num_classes: outputs of the linear head.
        in_channels: channels of the input images.
        image_size: side of the square input images in pixels.

    Raises:
        ConfigError: unknown name, or an image size a transformer's patches cannot tile.
    """
    make = _ZOO[choose("model", name, _ZOO)]
    shape = {"num_classes": num_classes, "in_channels": in_channels}
    if is_vit(name):
        patch = cast(partial, make).args[0]
        if image_size % patch:
            raise ConfigError(
                f"image_size must be a multiple of {patch} for {name}, which cuts patches of "
                f"{patch} pixels; it is {image_size}"
            )
        shape["image_size"] = image_size
    return make(**shape)


def count(parameters: Iterable[Tensor]) -> int:
    """Number of coordinates in an iterable of tensors."""
    return sum(p.numel() for p in parameters)
