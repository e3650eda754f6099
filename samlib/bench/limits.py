"""What a device could do: its rate of matrix products, and how many operations a step asks for."""

import math
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from samlib.bench.timing import Step

SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}  # of the matrices
_PRODUCTS = 4  # per call


def products(precision: str, device: torch.device) -> dict[int, Step]:
    """By size, a few products of two square matrices of the precision a run computes in.

    On a CPU by the library of its convolutions; on a GPU those of fp32 are in TF32 where
    convolutions are.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    tf32 = device.type == "cuda" and torch.backends.cudnn.allow_tf32
    # On some processors it is twice as fast as the one that multiplies ordinary fp32 tensors.
    onednn = device.type == "cpu" and precision == "fp32" and torch.backends.mkldnn.is_available()

    def product(size: int) -> Step:
        a, b = (torch.rand(size, size, dtype=dtype, device=device) for _ in range(2))
        if onednn:
            a, b = a.to_mkldnn(), b.to_mkldnn()

        def call() -> None:
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("high" if tf32 else before)
            try:
                for _ in range(_PRODUCTS):
                    F.linear(a, b)
            finally:
                torch.set_float32_matmul_precision(before)

        return call

    return {size: product(size) for size in SIZES[device.type]}


def matrix_rate(took: dict[int, list[float]]) -> tuple[int, float]:
    """The size of the fastest products and their median rate, operations per second.

    Args:
        took: by size, seconds of the calls of `products`.
    """
    rates = {n: 2 * n**3 * _PRODUCTS / statistics.median(values) for n, values in took.items()}
    size = max(rates, key=rates.__getitem__)
    return size, rates[size]


def _convolution_backward(gradient, images, weight, *others, **_) -> int:
    """Operations of the wanted gradients of a convolution, each as many as its forward pass's."""
    wanted = others[-1]  # of images, weight and bias, the last of which costs next to nothing
    return sum(wanted[:2]) * 2 * math.prod(gradient) * math.prod(weight[1:])


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of a call, be it a pass or a whole step.

    Those of convolutions and matrix products are counted, an addition and a multiplication each.
    """
    # PyTorch's own count takes the weight gradient of a grouped convolution for an ungrouped one.
    corrected = {torch.ops.aten.convolution_backward: _convolution_backward}
    counter = FlopCounterMode(display=False, custom_mapping=corrected)
    # Attention as products of matrices: its fused kernels are not counted on every device.
    with sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return counter.get_total_flops()
