"""The model zoo, by name: the paper's five networks and a scaled-down relative of each family.

Definitions follow the authors' (specification 3.2): bias-free convolutions, Kaiming-normal
(fan out) initialisation, batch norm 1/0, no zero-initialised residual. Every model takes any input
size and channel count, and lists its `stages` in forward order, so that masks over stages and the
step's reuse of an unperturbed prefix need to know nothing about families.
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from samlib.errors import ConfigError, choose
from samlib.sam import masks
from samlib.sam.reuse import Staged


def _conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, groups=groups, bias=False)


def _conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class _Projection(nn.Module):
    """Shortcut of a post-activation block whose shape changes: 1x1 convolution, batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv = _conv1x1(inputs, outputs, stride)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    same = inputs == outputs and stride == 1
    return nn.Identity() if same else _Projection(inputs, outputs, stride)


class BasicBlock(nn.Module):
    """Post-activation block of He et al. (2016): conv-norm-relu-conv-norm, add, relu."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = _conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """ResNeXt block of Xie et al. (2017): 1x1, grouped 3x3, 1x1; twice as wide as its middle."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int):
        super().__init__()
        middle = outputs // 2
        self.conv1, self.norm1 = _conv1x1(inputs, middle), nn.BatchNorm2d(middle)
        self.conv2 = _conv3x3(middle, middle, stride, groups)
        self.norm2 = nn.BatchNorm2d(middle)
        self.conv3, self.norm3 = _conv1x1(middle, outputs), nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return F.relu(y + self.downsample(x))


class PreactBlock(nn.Module):
    """Pre-activation block of the WRN the authors use: norm-relu-conv twice, shortcut on raw x."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv3x3(inputs, outputs, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), _conv3x3(outputs, outputs)
        # As in the authors' network the 1x1 convolution sees the raw input, not relu(norm1(x)).
        same = inputs == outputs
        self.downsample = nn.Identity() if same else _conv1x1(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        y = self.conv2(F.relu(self.norm2(y)))
        return y + self.downsample(x)


class ResNet(Staged):
    """A stem, three stages of residual blocks, global average pooling and a linear head.

    Args:
        block: called as `block(inputs, outputs, stride)`.
        widths: output channels of each stage; every stage but the first halves the resolution.
        depth: blocks in each stage.
        stem: channels after the first convolution, of 3x3 pixels, or of patches side by side.
        patch: side of the patches in pixels; 1 is the 3x3 convolution.
        preact: pre-activation networks have no norm after the stem and one before the pooling.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(
        self,
        block: Callable[[int, int, int], nn.Module],
        *,
        widths: tuple[int, ...],
        depth: int,
        stem: int,
        preact: bool,
        num_classes: int,
        in_channels: int,
        patch: int = 1,
    ):
        super().__init__()
        self.conv1 = _conv3x3(in_channels, stem)
        if patch > 1:
            self.conv1 = nn.Conv2d(in_channels, stem, patch, patch, bias=False)
        self.norm1 = nn.BatchNorm2d(widths[-1] if preact else stem)
        self.preact = preact
        inputs = stem
        for number, width in enumerate(widths, start=1):
            blocks = []
            for position in range(depth):
                stride = 2 if position == 0 and number > 1 else 1
                blocks.append(block(inputs, width, stride))
                inputs = width
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The residual stages in forward order (B1, B2, B3 of the paper's runtime figure)."""
        return self.layer1, self.layer2, self.layer3

    def before_stages(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return x if self.preact else F.relu(self.norm1(x))

    def after_stages(self, x: Tensor) -> Tensor:
        if self.preact:
            x = F.relu(self.norm1(x))
        return self.fc(x.mean((2, 3)))


class ResNet50(Staged, torchvision.models.ResNet):
    """torchvision's ResNet-50, its four stages named as such."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module
    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
    avgpool: nn.Module
    fc: nn.Module

    def __init__(self, *, num_classes: int, in_channels: int):
        if in_channels != 3:
            raise ConfigError(f"resnet50 takes colour images, not {in_channels} channels")
        block = torchvision.models.resnet.Bottleneck
        super().__init__(block, [3, 4, 6, 3], num_classes=num_classes)

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """Its four groups of bottlenecks, in forward order."""
        return self.layer1, self.layer2, self.layer3, self.layer4

    def before_stages(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def after_stages(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(x).flatten(1))


class DyT(nn.Module):
    """Dynamic tanh, y = gamma tanh(alpha x) + beta: a normalization layer without statistics.

    Zhu et al. (2025), "Transformers without normalization": alpha is one number per layer, 0.5 at
    first; gamma (`weight`) and beta (`bias`) are per channel.

    Args:
        dim: channels, the last dimension of the input.
        device, dtype: of the parameters, as every torch layer takes them.
    """

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.alpha = nn.Parameter(torch.full((1,), 0.5, **place))
        self.weight = nn.Parameter(torch.ones(dim, **place))
        self.bias = nn.Parameter(torch.zeros(dim, **place))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x) * self.weight + self.bias


# It takes the place of a norm layer without dividing by a size, by which those are recognised.
masks.register_norm(DyT)


class ViT(Staged, VisionTransformer):  # type: ignore[misc]  # `forward` is that of Staged
    """timm's vision transformer, its blocks grouped into three stages of equal depth."""

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """Thirds of the encoder, in forward order."""
        third = len(self.blocks) // 3
        return tuple(self.blocks[i * third : (i + 1) * third] for i in range(3))

    def before_stages(self, x: Tensor) -> Tensor:
        x = self._pos_embed(self.patch_embed(x))
        return self.norm_pre(self.patch_drop(x))

    def after_stages(self, x: Tensor) -> Tensor:
        return self.forward_head(self.norm(x))


def _resnet(depth: int, **shape) -> ResNet:
    return ResNet(BasicBlock, widths=(16, 32, 64), depth=depth, stem=16, preact=False, **shape)


def _resnext(depth: int, groups: int, width: int, **shape) -> ResNet:
    widths = tuple(2 * groups * width * 2**i for i in range(3))
    block = partial(Bottleneck, groups=groups)
    stem = widths[0] // 4
    return ResNet(block, widths=widths, depth=depth, stem=stem, preact=False, **shape)


def _wrn(depth: int, widen: int, **shape) -> ResNet:
    widths = tuple(16 * widen * 2**i for i in range(3))
    return ResNet(PreactBlock, widths=widths, depth=(depth - 4) // 6, stem=16, preact=True, **shape)


def _patched(block: Callable, *, preact: bool, **shape) -> ResNet:
    """Depth 10 and widths 64, 128, 256 behind 4 x 4 patches: 8 x 8 positions of a 32-pixel image.

    The stem takes most of the work out of the first stage, so that two cores can train it.
    """
    widths = (64, 128, 256)
    return ResNet(block, widths=widths, depth=1, stem=64, patch=4, preact=preact, **shape)


def _vit(
    patch: int, dim: int, depth: int, heads: int, *, num_classes, in_channels, image_size, norm=None
):
    return ViT(
        img_size=image_size,
        patch_size=patch,
        in_chans=in_channels,
        num_classes=num_classes,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        norm_layer=norm,
    )


_ZOO: dict[str, Callable[..., nn.Module]] = {
    # the paper's models (specification 3.2 lists their exact parameter counts)
    "resnet56": partial(_resnet, 9),
    "resnext29_32x4d": partial(_resnext, 3, 32, 4),
    "wrn28_10": partial(_wrn, 28, 10),
    "vit_t": partial(_vit, 4, 192, 12, 3),
    "vit_s": partial(_vit, 4, 384, 12, 6),
    # ImageNet at 224 pixels
    "vit_s32": partial(_vit, 32, 384, 12, 6),
    "resnet50": ResNet50,
    # one GPU, hours: the WRN of the independent numbers in specification 4.7
    "wrn16_4": partial(_wrn, 16, 4),
    # scaled-down relatives for two CPU cores, and 32 x 32 images in patches or 8 x 8 images
    "wrn10_4_patch4": partial(_patched, PreactBlock, preact=True),
    "resnet10_4_patch4": partial(_patched, BasicBlock, preact=False),
    "vit_mini": partial(_vit, 8, 128, 6, 4),
    "resnet8": partial(_resnet, 1),
    "resnext11_4x2d": partial(_resnext, 1, 4, 2),
    "wrn10_1": partial(_wrn, 10, 1),
    "vit_micro": partial(_vit, 2, 48, 3, 3),
    # transformers without normalization
    "vit_t_dyt": partial(_vit, 4, 192, 12, 3, norm=DyT),
    "vit_micro_dyt": partial(_vit, 2, 48, 3, 3, norm=DyT),
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


def count(parameters) -> int:
    """Number of coordinates in an iterable of tensors."""
    return sum(p.numel() for p in parameters)
