"""ResNet, ResNeXt and WRN of the paper, as the authors define them (specification 3.2).

Bias-free convolutions, Kaiming-normal (fan out) initialisation, batch norm 1/0, no zero-initialised
residual.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

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
