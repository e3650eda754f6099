"""timm's vision transformer in three stages, and DyT, which takes its LayerNorms' place."""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from samlib.sam import masks
from samlib.sam.reuse import Staged


class DyT(nn.Module):
    """Dynamic tanh, y = gamma tanh(alpha x) + beta: a normalization layer without statistics.

    Zhu et al. (2025), "Transformers without normalization": alpha is one number per layer, 0.5 at
    first; gamma (`weight`) and beta (`bias`) are per channel.

    Args:
        dim: channels, the last dimension of the input.
        device, dtype: of the parameters, as every torch layer takes them.
    """

    def __init__(
        self,
        dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        place: dict[str, Any] = {"device": device, "dtype": dtype}
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
        n = len(self.blocks)
        return tuple(self.blocks[n * i // 3 : n * (i + 1) // 3] for i in range(3))

    def before_stages(self, x: Tensor) -> Tensor:
        x = self._pos_embed(self.patch_embed(x))
        return self.norm_pre(self.patch_drop(x))

    def after_stages(self, x: Tensor) -> Tensor:
        return self.forward_head(self.norm(x))
