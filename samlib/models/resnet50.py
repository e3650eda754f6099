"""torchvision's ResNet-50, for ImageNet."""

import torchvision
from torch import Tensor, nn

from samlib.errors import ConfigError
from samlib.sam.reuse import Staged


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
