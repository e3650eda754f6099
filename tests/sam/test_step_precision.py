"""The step under autocast: bfloat16 sees the weights of now, float16 is refused."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from conftest import Net, closure_of, flat, identical, one_line, small_batch, small_net, snapshot
from step_setting import OPTIMIZERS, grads_of, setting
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from two_norms import RHO, assert_a_step_is_right, ball, batch, loss_of, sgd, steps, two_norms

from samlib import Perturbation, masks, perturbed, sam_step
from samlib.errors import ConfigError
from samlib.sam.geometry import L2
from samlib.sam.when import Every


@pytest.mark.parametrize("mask", ["all", "only_norm", "no_norm", "coordinates"])
def test_an_autocast_around_the_step_sees_the_perturbed_weights(mask):
    """Autocast caches its casts of weights until the outermost context is left."""
    net, closure, perturbation = setting(mask, rho=1.0, dtype=torch.float32)
    with perturbed(closure, perturbation):
        pass

    def inside():
        with torch.autocast("cpu", torch.bfloat16):
            return closure()

    losses = []
    with torch.autocast("cpu", torch.bfloat16), perturbed(closure, perturbation) as first:
        losses.append(closure().detach())
        grads = grads_of(closure(), net)
    with perturbed(inside, perturbation) as expected_first:
        losses.append(inside().detach())
        expected = grads_of(inside(), net)
    assert torch.equal(first, expected_first)
    assert torch.equal(*losses)
    assert losses[0] > first + 0.05
    assert identical(grads, expected)


def test_an_autocast_around_many_steps_sees_every_update():
    trained = []
    for around in (True, False):
        net, closure, perturbation = setting(rho=0.5, dtype=torch.float32)
        optimizer = OPTIMIZERS["sgd"](net.parameters())

        def inside(closure=closure):
            with torch.autocast("cpu", torch.bfloat16):
                return closure()

        # not `enabled=around`: even a disabled one keeps the cache of those inside it
        with torch.autocast("cpu", torch.bfloat16) if around else nullcontext():
            for _ in range(3):
                sam_step(closure if around else inside, optimizer, perturbation)
        trained.append(net.state_dict())
    assert identical(*trained)


def test_a_plain_step_under_an_outer_autocast_sees_the_weights_of_now():
    net, (x, y) = small_net(norm=lambda channels: nn.Identity()), small_batch()
    with torch.autocast("cpu", torch.bfloat16):
        sam_step(closure_of(net, x, y), torch.optim.SGD(net.parameters(), lr=5.0), None)
        second = sam_step(closure_of(net, x, y), torch.optim.SGD(net.parameters(), lr=5.0), None)
    net, (x, y) = small_net(norm=lambda channels: nn.Identity()), small_batch()
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            fresh = sam_step(closure_of(net, x, y), torch.optim.SGD(net.parameters(), lr=5.0), None)
    assert torch.equal(second, fresh)


@pytest.mark.parametrize("step", ["sam_step", "perturbed"])
def test_so_does_a_perturbed_step_after_a_plain_one(step):
    """Of the casts that the plain step left, and of those of a `perturbed` that moves nothing."""
    losses = []
    for around in (True, False):
        net, closure, _ = setting(dtype=torch.float32)
        perturbation = Perturbation(L2(), 0.5, masks.only_norm(net), when=Every(2))
        optimizer = torch.optim.SGD(net.parameters(), lr=5.0)

        def inside(closure=closure):
            with torch.autocast("cpu", torch.bfloat16):
                return closure()

        given, found = closure if around else inside, []
        with torch.autocast("cpu", torch.bfloat16) if around else nullcontext():
            for _ in range(4):
                if step == "sam_step":
                    found.append(sam_step(given, optimizer, perturbation))
                    continue
                with perturbed(given, perturbation) as loss:
                    optimizer.zero_grad()
                    given().backward()
                optimizer.step()
                found.append(loss)
        losses.append(torch.stack(found))
    assert torch.equal(*losses)


def test_fp16_is_refused():
    net, closure, perturbation = setting(dtype=torch.float32)
    before = snapshot(net)
    with (
        torch.autocast("cpu", torch.float16),
        pytest.raises(ConfigError, match=r"fp16 autocast.* use bfloat16") as caught,
    ):
        sam_step(closure, OPTIMIZERS["sgd"](net.parameters()), perturbation)
    one_line(caught)
    with pytest.raises(ConfigError, match="fp16") as caught:
        sam_step(lambda: closure().half(), OPTIMIZERS["sgd"](net.parameters()), perturbation)
    one_line(caught)
    assert identical(snapshot(net), before)


def test_fp16_is_refused_in_epochs_without_a_perturbation_too():
    net, closure, perturbation = setting(dtype=torch.float32, start=150)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    before = snapshot(net)
    with torch.autocast("cpu", torch.float16), pytest.raises(ConfigError, match="fp16 autocast"):
        sam_step(lambda: closure().float(), optimizer, perturbation, epoch=0)
    assert identical(snapshot(net), before)


@pytest.fixture
def fp16_on_a_gpu():
    """fp16 autocast of CUDA tensors, which need no GPU where nothing is computed."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.float16)
    try:
        with FakeTensorMode(), torch.device("cuda"):
            yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)


@pytest.mark.skipif(torch.__version__ < "2.6", reason="fake CUDA tensors need a driver there")
@pytest.mark.parametrize("call", [lambda net, x: net(x), lambda net, x: net(x=x)])
def test_fp16_is_refused_however_the_model_gets_its_inputs(call, fp16_on_a_gpu):
    net, x = Net(), torch.empty(8, 2, 6, 6)
    perturbation = Perturbation(L2(), 0.1, masks.only_norm(net))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="fp16 autocast"):
        sam_step(lambda: call(net, x).sum(), optimizer, perturbation)


def test_fp16_autocast_inside_the_closure_is_refused_too():
    net, (x, y) = small_net(), small_batch()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def closure():
        with torch.autocast("cpu", torch.float16):
            return F.cross_entropy(net(x).float(), y)

    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ConfigError, match="fp16 autocast"):
        sam_step(closure, optimizer, Perturbation(L2(), 0.1, masks.only_norm(net)))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not net._forward_pre_hooks


class Inside(nn.Module):
    """A network that computes a part of itself in another precision."""

    def __init__(self, dtype, how):
        super().__init__()
        self.net, self.dtype, self.how = two_norms().float(), dtype, how

    def forward(self, x):
        if self.how == "cast":
            return F.linear(self.net[:5](x).to(self.dtype), self.net[5].weight.to(self.dtype))
        with torch.autocast("cpu", self.dtype):
            return self.net(x).float()


def single():
    x, y = batch()
    return x.float(), y


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("how", ["autocast", "cast"])
def test_fp16_is_refused_wherever_it_is_entered(how, compiled):
    net = Inside(torch.float16, how)
    mask = masks.only_norm(net)
    model = torch.compile(net, backend="aot_eager") if compiled else net
    before = snapshot(net)
    for make in (lambda c: sam_step(c, sgd(net), ball(mask)), lambda c: next(steps(c, mask))):
        with pytest.raises(ConfigError, match=r"fp16 autocast, .* use bfloat16") as caught:
            make(loss_of(model, *single()))
        one_line(caught)
    assert identical(snapshot(net), before)


@pytest.mark.parametrize("how", ["autocast", "cast"])
def test_bfloat16_is_not(how):
    net = Inside(torch.bfloat16, how)
    seen, closure = [], loss_of(net, *single())
    sam_step(closure, sgd(net), ball(masks.only_norm(net)), on_ascent=lambda a: seen.extend(a.eps))
    assert flat(seen).norm().item() == pytest.approx(RHO, rel=1e-5)


def convolutions():
    """Batch norm between convolutions, in float32."""
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(8 * 16, 3))


def frozen_but_norms():
    net = convolutions()
    for layer in (0, 3, 6):
        net[layer].requires_grad_(False)
    return net, lambda x: torch.autocast("cpu", torch.float16)(net)(x).float()


def in_half_but_norms():
    net = convolutions().half()
    net[1].float()
    net[4].float()
    return net, lambda x: net(x.half()).float()


class Doubled(torch.autograd.Function):
    """A kernel that casts by itself, as with torch.amp.custom_fwd."""

    @staticmethod
    def forward(ctx, x):
        return x.half() * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient.float() * 2


def in_half_in_a_kernel():
    net = convolutions()
    return net, lambda x: Doubled.apply(net(x)) * torch.ones(3)


@pytest.mark.parametrize("make", [frozen_but_norms, in_half_but_norms, in_half_in_a_kernel])
def test_fp16_without_a_cast_on_the_gradients_way_is_refused(make):
    """A norm layer takes half precision beside weights in float32."""
    net, model = make()
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    mask, before = masks.only_norm(net), snapshot(net)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    with pytest.raises(ConfigError, match=r"fp16 autocast, .* use bfloat16") as caught:
        sam_step(lambda: F.cross_entropy(model(x), y), optimizer, ball(mask))
    one_line(caught)
    assert identical(snapshot(net), before)


def test_a_frozen_part_in_fp16_in_front_is_not():
    class Behind(nn.Module):
        def __init__(self):
            super().__init__()
            self.front = nn.Linear(8, 8).half().requires_grad_(False)
            self.net = two_norms()

        def forward(self, x):
            return self.net(self.front(x.half()).double())

    net = Behind()
    mask = masks.only_norm(net)
    assert_a_step_is_right(net, mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_turned_to_half_after_the_mask_was_made_are_refused(dtype):
    net = two_norms()
    mask = masks.only_norm(net)
    net.to(dtype)
    x, y = batch()
    with pytest.raises(ConfigError, match=rf"1\.weight was turned to {dtype} after") as caught:
        sam_step(lambda: F.cross_entropy(net(x.to(dtype)).float(), y), sgd(net), ball(mask))
    one_line(caught)
