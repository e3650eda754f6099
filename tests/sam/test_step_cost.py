"""What the step does not compute, copy or keep."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from conftest import closure_of, eps_into, flat, small_batch
from step_setting import OPTIMIZERS, setting
from torch.utils._python_dispatch import TorchDispatchMode

from samlib import Perturbation, masks, models, perturbed, sam_step
from samlib.sam.geometry import L2


class FromHost(TorchDispatchMode):
    """Counts tensors made of Python numbers, which on a GPU no recorded step can copy there."""

    def __init__(self):
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.made += func is torch.ops.aten.lift_fresh.default
        return func(*args, **(kwargs or {}))


def test_a_step_at_channels_last_coordinates_copies_nothing_from_the_host():
    net, closure, perturbation = setting("coordinates")
    net.to(memory_format=torch.channels_last)
    with FromHost() as watch:
        sam_step(closure, OPTIMIZERS["sgd"](net.parameters()), perturbation)
    assert watch.made == 0
    with watch:
        torch.tensor([1, 2])
    assert watch.made == 1


class ConvolutionGradients(TorchDispatchMode):
    """Notes, of each convolution's backward, whether input and weight gradients were computed."""

    def __init__(self):
        super().__init__()
        self.computed = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.computed.append(tuple(args[-1][:2]))
        return func(*args, **(kwargs or {}))


def late_mask_run():
    """Backward passes of a step that masks the norm layers of the last of three stages."""
    net = models.build("resnet8", num_classes=10, in_channels=1, image_size=8)
    reached, seen, watch = [], [], ConvolutionGradients()
    layers = (net.layer1, net.layer2, net.layer3)
    for number, layer in enumerate(layers, start=1):
        layer.register_forward_hook(
            lambda module, x, y, n=number: y.register_hook(lambda g: reached.append(n)) and None
        )
    perturbation = Perturbation(L2(), 0.1, masks.blocks(net, [3]))
    x = torch.randn(4, 1, 8, 8)
    with watch, perturbed(closure_of(net, x, torch.arange(4)), perturbation):
        seen.append((list(reached), list(watch.computed)))
        reached.clear()
        watch.computed.clear()
        closure_of(net, x, torch.arange(4))().backward()
        seen.append((list(reached), list(watch.computed)))
    return seen


def test_ascent_stops_at_the_first_masked_layer_and_computes_no_weight_gradient():
    (layers, convolutions), (all_layers, all_convolutions) = late_mask_run()
    assert layers == [3]
    assert all_layers == [3, 2, 1]
    # layer3's first norm needs the gradient behind its second convolution, and nothing further
    assert convolutions == [(True, False)]
    assert len(all_convolutions) == 9
    assert all(weight for _, weight in all_convolutions)


def test_ascent_of_a_norm_mask_computes_no_convolution_weight_gradient():
    _, closure, perturbation = setting("only_norm")
    with ConvolutionGradients() as watch:
        eps = []
        with perturbed(closure, perturbation, on_ascent=eps_into(eps)):
            pass
    assert watch.computed == [(True, False)]  # conv2 passes on; conv1 is below every norm
    assert flat(eps).norm().item() == pytest.approx(0.3)


def late_coordinates(net):
    """Below these the ascent's backward runs no node, so none of them lets its tensors go."""
    return masks.from_booleans(net, {"norm2.bias": torch.ones(6, dtype=torch.bool)})


@pytest.mark.parametrize("mask", ["all", "only_norm", "coordinates", late_coordinates])
def test_nothing_of_the_ascent_graph_outlives_it(mask):
    net, _, perturbation = setting(mask)
    x, y = small_batch(torch.float64)
    alive = []

    def closure():
        alive.append([ref() is not None for ref in activations])
        h = torch.relu(net.norm1(net.conv1(x)))
        activations.append(weakref.ref(h))
        loss = F.cross_entropy(net.fc(torch.relu(net.norm2(net.conv2(h))).mean((2, 3))), y)
        del h
        assert activations[-1]() is not None  # its graph alone holds it
        return loss

    activations = []
    gc.disable()  # by reference counting, at once
    try:
        sam_step(closure, torch.optim.SGD(net.parameters(), lr=0.1), perturbation)
    finally:
        gc.enable()
    assert alive == [[], [False]]
