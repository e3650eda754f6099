"""Promises at every step: what training changes after the mask was made, and code in the block."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import flat, identical, one_line, snapshot
from timm.optim import Lion
from torch import nn
from torch.func import functional_call

from samlib import Perturbation, geometry, masks, perturbed, sam_step
from samlib.errors import ConfigError

RHO = 0.5


def ball(mask, **options):
    return Perturbation(geometry.L2(), RHO, mask, **options)


def sgd(net, lr=0.1):
    return torch.optim.SGD(net.parameters(), lr=lr)


def two_norms():
    torch.manual_seed(0)
    layers = nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8)
    return nn.Sequential(*layers, nn.Linear(8, 3)).double()


def batch(seed=1, n=16):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, dtype=torch.float64, generator=draw)
    return x, torch.randint(3, (n,), generator=draw)


def loss_of(net, x, y):
    return lambda: F.cross_entropy(net(x).to(x.dtype), y)


def descent_gradient(net, x, y, names):
    """The gradient at w + eps by name, from autograd on a copy of the weights alone."""

    def gradient(weights):
        weights = {n: w.detach().clone().requires_grad_() for n, w in weights.items()}
        loss = F.cross_entropy(functional_call(net, weights, (x,)), y)
        wanted = [n for n, p in net.named_parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, [weights[n] for n in wanted])
        return dict(zip(wanted, found, strict=True))

    weights = dict(net.named_parameters())
    first = gradient(weights)
    length = torch.cat([first[n].flatten() for n in names]).norm()
    away = {n: w + RHO * first[n] / length if n in names else w for n, w in weights.items()}
    return gradient(away)


def assert_a_step_is_right(net, mask, *, names=None, loss=None):
    """sam_step with SGD moves weights as the formula says, in float64, and warns of nothing."""
    x, y = batch()
    names = names or [e.name for e in mask.entries]
    gradient = descent_gradient(net, x, y, names)
    want = {n: p.detach() - 0.1 * gradient.get(n, 0.0) for n, p in net.named_parameters()}
    sam_step(loss or loss_of(net, x, y), sgd(net), ball(mask))
    for n, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), want[n], rtol=1e-10, atol=1e-12)


# --- precision -----------------------------------------------------------------------------------


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


def steps(closure, mask):
    with perturbed(closure, ball(mask)) as loss:
        yield loss


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


# --- what is trainable ---------------------------------------------------------------------------


def half_frozen():
    net = two_norms()
    net[:2].requires_grad_(False)
    return net


ALL_TRUE = {"4.weight": torch.ones(8, dtype=torch.bool)}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (masks.only_norm, {}),
        (masks.only_gamma, {}),
        (masks.all_parameters, {}),
        (masks.no_norm, {}),
        (lambda net: masks.random(net, sparsity=0.5), {}),
        (lambda net: masks.from_booleans(net, ALL_TRUE), {"radius_over": "all"}),
    ],
)
def test_parameters_unfrozen_after_the_mask_was_made_are_named(make, options):
    net = half_frozen()
    mask = make(net)
    net.requires_grad_(True)
    before = snapshot(net)
    with pytest.raises(ConfigError, match=r"became trainable after mask .* was made") as caught:
        sam_step(loss_of(net, *batch()), sgd(net), ball(mask, **options))
    one_line(caught)
    assert identical(snapshot(net), before)
    sam_step(loss_of(net, *batch()), sgd(net), ball(make(net), **options))


def test_what_is_unfrozen_outside_of_a_selection_is_nobodys_affair():
    net = two_norms()
    net[0].requires_grad_(False)
    mask = masks.only_norm(net)
    net[0].requires_grad_(True)
    assert_a_step_is_right(net, mask)
    net = half_frozen()
    mask = masks.from_booleans(net, ALL_TRUE)
    net.requires_grad_(True)
    assert_a_step_is_right(net, mask)


def test_a_norm_layer_added_after_the_mask_was_made_is_named():
    net = two_norms()
    mask = masks.only_norm(net)
    net.append(nn.RMSNorm(3).double())
    with pytest.raises(ConfigError, match=r"6\.weight became trainable"):
        sam_step(loss_of(net, *batch()), sgd(net), ball(mask))


def test_inputs_and_parameters_of_others_with_a_gradient_are_no_news():
    net = two_norms()
    mask, scale = masks.all_parameters(net), nn.Parameter(torch.ones((), dtype=torch.float64))
    x, y = batch()
    x.requires_grad_()
    assert_a_step_is_right(net, mask, loss=lambda: F.cross_entropy(net(x) * scale, y))


def test_a_random_mask_needs_all_it_counted_through():
    net = two_norms()
    mask = masks.random(net, count=1)
    (entry,) = mask.entries
    other = next(p for p in net.parameters() if p is not entry.parameter)
    other.requires_grad_(False)
    with pytest.raises(ConfigError, match="was frozen after its mask was made"):
        sam_step(loss_of(net, *batch()), sgd(net), ball(mask))


def test_norm_layers_replaced_after_the_mask_was_made_keep_their_statistics():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    mask = masks.only_norm(net)
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net).double()
    x, y = batch()
    hidden = net[0](x).detach()
    sam_step(lambda: F.cross_entropy(net(x), y), sgd(net), ball(mask, batchnorm="first"))
    torch.testing.assert_close(net[1].running_mean, 0.1 * hidden.mean(0), rtol=1e-12, atol=0)
    assert mask.norms == [net[1]]


# --- epochs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"start": 150}, {"end": 3}])
def test_active_epochs_want_an_epoch(options):
    net = two_norms()
    late = ball(masks.only_norm(net), **options)
    with pytest.raises(ConfigError, match="say which epoch it is") as caught:
        sam_step(loss_of(net, *batch()), sgd(net), late)
    one_line(caught)
    with pytest.raises(ConfigError, match="say which epoch"), perturbed(lambda: 0, late):
        pass
    gamma = net[1].weight.detach().clone()
    with perturbed(loss_of(net, *batch()), late, plan=late.plan(5)):
        assert torch.equal(net[1].weight, gamma)
    with perturbed(loss_of(net, *batch()), late, plan=late.plan(options.get("start", 0))):
        assert not torch.equal(net[1].weight, gamma)


def test_an_epoch_that_is_no_number_is_refused():
    late = ball(masks.only_norm(two_norms()), start=1)
    with pytest.raises(ConfigError, match="epoch must be a number, not '3'") as caught:
        late.plan("3")
    one_line(caught)
    assert [late.plan(e).active for e in (0, 0.5, 1, 1.5, torch.tensor(2))] == [0, 0, 1, 1, 1]


# --- code in the block ---------------------------------------------------------------------------


def test_an_optimizer_that_steps_in_the_backward_pass_is_refused():
    net = two_norms()
    for p in net.parameters():
        own = torch.optim.SGD([p], lr=0.1)
        p.register_post_accumulate_grad_hook(lambda _, own=own: own.step())
    before = snapshot(net)
    mask = masks.only_norm(net)
    with (
        pytest.raises(ConfigError, match="SGD steps inside the block") as caught,
        perturbed(loss_of(net, *batch()), ball(mask)),
    ):
        loss_of(net, *batch())().backward()
    one_line(caught)
    for name in (e.name for e in mask.entries):
        assert torch.equal(net.state_dict()[name], before[0][name])


@pytest.mark.parametrize(
    "write",
    [
        lambda net, old: net[1].weight.mul_(2),
        lambda net, old: net[1].bias.sub_(0.1),
        lambda net, old: net.load_state_dict(old),
        lambda net, old: nn.init.ones_(net[4].weight),
        lambda net, old: setattr(net[4].weight, "data", torch.ones(8).double()),
    ],
)
def test_weights_changed_inside_the_block_are_named_and_restored(write):
    net = two_norms()
    old = copy.deepcopy(net.state_dict())
    mask = masks.only_norm(net)
    with (
        pytest.raises(ConfigError, match="was changed inside the block") as caught,
        perturbed(loss_of(net, *batch()), ball(mask)),
        torch.no_grad(),
    ):
        write(net, old)
    one_line(caught)
    for name in (e.name for e in mask.entries):
        assert torch.equal(net.state_dict()[name], old[name])


def test_another_networks_optimizer_may_step_inside_the_block():
    net, other = two_norms(), two_norms()
    with perturbed(loss_of(net, *batch()), ball(masks.only_norm(net))):
        sam_step(loss_of(other, *batch()), sgd(other), ball(masks.only_norm(other)))


def test_blocks_may_be_nested():
    net, x, y = two_norms(), *batch()
    inner, outer = ball(masks.only_norm(net)), ball(masks.all_parameters(net))
    before = snapshot(net)
    for first, second in ((outer, inner), (inner, outer), (inner, inner)):
        with perturbed(loss_of(net, x, y), first):
            here = snapshot(net)
            with perturbed(loss_of(net, x, y), second):
                assert not identical(snapshot(net), here)
            assert identical(snapshot(net), here)
            with (
                pytest.raises(ConfigError, match=r"1\.weight was changed"),
                perturbed(loss_of(net, x, y), second),
                torch.no_grad(),
            ):
                net[1].weight.mul_(2)
            assert identical(snapshot(net), here)
        assert identical(snapshot(net), before)


def test_a_forward_pass_may_keep_its_weights_in_bounds():
    class Bounded(nn.Linear):
        """A layer whose rows have a bounded length, as networks for EEG have."""

        def forward(self, x):
            with torch.no_grad():
                self.weight.copy_(self.weight.renorm(2, 0, 0.5))
            return super().forward(x)

    torch.manual_seed(0)
    net = nn.Sequential(Bounded(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)).double()
    sam_step(loss_of(net, *batch()), sgd(net), ball(masks.all_parameters(net)))
    sam_step(loss_of(net, *batch()), sgd(net), ball(masks.only_norm(net)))


def test_a_closure_with_a_backward_pass_of_a_part_is_refused():
    """Of what no mask holds, and between the first weight and the last one."""
    net, x, y = two_norms(), *batch()
    hidden = net[:3](x).detach()

    def closure():
        net[3](hidden).square().mean().backward()
        return F.cross_entropy(net(x), y)

    for make in (masks.only_norm, masks.no_norm):
        with pytest.raises(ConfigError, match="must not call backward"):
            sam_step(closure, sgd(net), ball(make(net)))
        with pytest.raises(ConfigError, match="must not call backward"):
            next(steps(closure, make(net)))


def test_a_closure_may_take_a_gradient_of_a_gradient():
    """A gradient penalty, as of WGAN-GP."""
    net, x, y = two_norms(), *batch()
    mask = masks.only_norm(net)

    def penalized(call):
        at = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(call(at).sum(), at, create_graph=True)
        return F.cross_entropy(call(x), y) + ((slope.norm(dim=1) - 1) ** 2).mean()

    def gradient(weights):
        weights = {n: w.detach().clone().requires_grad_() for n, w in weights.items()}
        loss = penalized(lambda z: functional_call(net, weights, (z,)))
        found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        return dict(zip(weights, found, strict=True))

    weights, names = dict(net.named_parameters()), [e.name for e in mask.entries]
    first = gradient(weights)
    length = torch.cat([first[n] for n in names]).norm()
    away = {n: w + RHO * first[n] / length if n in names else w for n, w in weights.items()}
    slope = gradient(away)
    want = {n: w.detach() - 0.1 * slope[n] for n, w in weights.items()}
    sam_step(lambda: penalized(net), sgd(net), ball(mask))
    torch.testing.assert_close(dict(net.named_parameters()), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("leave", ["retain", "zero"])
def test_a_closure_with_a_backward_pass_of_its_own_is_refused(leave):
    """The closure that LBFGS takes; a graph that is kept would be walked twice without an error."""
    net, x, y = two_norms(), *batch()
    optimizer = sgd(net)

    def closure():
        if leave == "zero":
            optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward(retain_graph=True)
        return loss

    before = snapshot(net)
    with pytest.raises(ConfigError, match="must not call backward") as caught:
        sam_step(closure, optimizer, ball(masks.only_norm(net)))
    one_line(caught)
    with pytest.raises(ConfigError, match="must not call backward"):
        sam_step(closure, optimizer, ball(masks.only_norm(net), start=3), epoch=0)
    assert identical(snapshot(net), before)


def test_no_gradient_in_inference_mode_is_told_so():
    net = two_norms()
    with torch.inference_mode(), pytest.raises(ConfigError, match=r"torch\.inference_mode takes"):
        sam_step(loss_of(net, *batch()), sgd(net), ball(masks.only_norm(net)))


# --- optimizers ----------------------------------------------------------------------------------


class Accumulating(torch.optim.Optimizer):
    """Does nothing until it is due, as accelerate's within `accumulate`."""

    def __init__(self, inner):
        self.inner, self.param_groups, self.due = inner, inner.param_groups, False

    def zero_grad(self, set_to_none=True):
        if self.due:
            self.inner.zero_grad(set_to_none)

    def step(self, closure=None):
        if self.due:
            self.inner.step()


@pytest.mark.parametrize("held", [False, True])
def test_an_optimizer_that_accumulates_is_refused(held):
    """Also at its first micro-batch, where no gradient is held: the second of two is due."""
    net, x, y = two_norms(), *batch()
    optimizer, mask = Accumulating(sgd(net)), masks.only_norm(net)
    if held:
        loss_of(net, x, y)().backward()
    before = [(p.grad, p.detach().clone()) for p in net.parameters()]
    with pytest.raises(ConfigError, match=r"Accumulating keeps .* use `perturbed`") as caught:
        sam_step(loss_of(net, x, y), optimizer, ball(mask))
    one_line(caught)
    for p, (grad, weight) in zip(net.parameters(), before, strict=True):
        assert p.grad is grad
        assert torch.equal(p, weight)


def test_an_optimizer_that_accumulates_works_with_perturbed():
    net = two_norms()
    optimizer, mask = Accumulating(sgd(net)), masks.only_norm(net)
    batches = [batch(seed) for seed in range(4)]
    names = [e.name for e in mask.entries]
    found = [descent_gradient(net, x, y, names) for x, y in batches]
    want = {n: p.detach() - 0.1 * sum(g[n] for g in found) for n, p in net.named_parameters()}
    for i, (x, y) in enumerate(batches):
        optimizer.due = i == 3
        with perturbed(loss_of(net, x, y), ball(mask)):
            loss_of(net, x, y)().backward()
        optimizer.step()
        optimizer.zero_grad()
    for n, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), want[n], rtol=1e-10, atol=1e-12)


def test_gradients_that_are_zeroed_in_place_are_dropped():
    class InPlace(torch.optim.SGD):
        def zero_grad(self, set_to_none=False):
            super().zero_grad(set_to_none=False)

    net = two_norms()
    mask = masks.only_norm(net)
    optimizer = InPlace(net.parameters(), lr=0.0)
    for seed in range(3):
        sam_step(loss_of(net, *batch(seed)), optimizer, ball(mask))
    got = {n: p.grad for n, p in net.named_parameters()}
    want = descent_gradient(net, *batch(2), [e.name for e in mask.entries])
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


O = torch.optim  # noqa: E741
OPTIMIZERS = {
    "sgd": lambda p: O.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd_foreach": lambda p: O.SGD(p, lr=0.1, foreach=True),
    "adam": lambda p: O.Adam(p, amsgrad=True),
    "adamw": lambda p: O.AdamW(p, fused=True),
    "adamax": O.Adamax,
    "nadam": O.NAdam,
    "radam": O.RAdam,
    "adagrad": O.Adagrad,
    "adadelta": O.Adadelta,
    "rmsprop": O.RMSprop,
    "asgd": O.ASGD,
    "rprop": O.Rprop,
    "adafactor": O.Adafactor,
    "lion": lambda p: Lion(p, lr=1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_get_the_gradient_at_the_perturbed_weights(name):
    net = two_norms()
    mask, other = masks.only_norm(net), copy.deepcopy(net)
    ours, theirs = OPTIMIZERS[name](net.parameters()), OPTIMIZERS[name](other.parameters())
    for seed in range(2):
        gradient = descent_gradient(other, *batch(seed), [e.name for e in mask.entries])
        for n, p in other.named_parameters():
            p.grad = gradient[n]
        theirs.step()
        sam_step(loss_of(net, *batch(seed)), ours, ball(mask))
    assert not torch.equal(flat(net.parameters()), flat(two_norms().parameters()))
    torch.testing.assert_close(
        flat(net.parameters()), flat(other.parameters()), rtol=1e-8, atol=1e-10
    )


def test_one_parameter_in_two_optimizers_is_refused():
    net = two_norms()
    optimizers = [sgd(net), torch.optim.Adam(net[5].parameters())]
    with pytest.raises(ConfigError, match="hold the same parameter") as caught:
        sam_step(loss_of(net, *batch()), optimizers, ball(masks.only_norm(net)))
    one_line(caught)


def test_two_optimizers_share_the_parameters():
    net, other = two_norms(), two_norms()
    of_matrices = getattr(O, "Muon", O.Adagrad)  # PyTorch 2.9 brings Muon

    def both(net):
        matrices = [p for p in net.parameters() if p.ndim == 2]
        vectors = [p for p in net.parameters() if p.ndim != 2]
        return [of_matrices(matrices, lr=0.02), O.AdamW(vectors, lr=1e-3)]

    gradient = descent_gradient(other, *batch(), [e.name for e in masks.only_norm(other).entries])
    for n, p in other.named_parameters():
        p.grad = gradient[n]
    for each in both(other):
        each.step()
    sam_step(loss_of(net, *batch()), both(net), ball(masks.only_norm(net)))
    torch.testing.assert_close(
        flat(net.parameters()), flat(other.parameters()), rtol=1e-6, atol=1e-8
    )


# --- compiled models -----------------------------------------------------------------------------


def in_place(net):
    net.compile(backend="aot_eager")
    return net


@pytest.mark.parametrize(
    "form", [lambda net: torch.compile(net, backend="aot_eager"), in_place], ids=["wrapped", "own"]
)
@pytest.mark.parametrize("make", [masks.only_norm, masks.all_parameters])
def test_compiled_models_are_silent_and_right(form, make):
    torch.compiler.reset()
    net, x, y = two_norms(), *batch()
    compiled = form(net)
    assert_a_step_is_right(net, make(net), loss=lambda: F.cross_entropy(compiled(x), y))


@pytest.mark.parametrize("make", [masks.only_norm, masks.all_parameters])
def test_a_compiled_closure_is_silent_and_right(make):
    torch.compiler.reset()
    net = two_norms()
    closure = torch.compile(loss_of(net, *batch()), backend="aot_eager")
    assert_a_step_is_right(net, make(net), loss=closure)


# --- closures and optimizers that are not what they should be ------------------------------------


@pytest.mark.parametrize("make", [masks.only_norm, masks.all_parameters])
def test_a_loss_of_an_earlier_forward_pass_is_told_so(make):
    net = two_norms()
    loss = loss_of(net, *batch())()
    before = snapshot(net)
    with pytest.raises(ConfigError, match=r"earlier forward pass|must not call backward") as caught:
        sam_step(lambda: loss, sgd(net), ball(make(net)))
    one_line(caught)
    assert identical(snapshot(net), before)


def test_logits_of_an_earlier_forward_pass_are_told_so_in_a_plain_step():
    net, (x, y) = two_norms(), batch()
    logits = net(x)
    closure = lambda: F.cross_entropy(logits, y)  # noqa: E731
    sam_step(closure, sgd(net), None)
    with pytest.raises(ConfigError, match="have it run the forward pass anew") as caught:
        sam_step(closure, sgd(net), None)
    one_line(caught)


def test_a_loss_that_a_scaler_multiplied_is_refused_and_others_are_not():
    net, (x, y) = two_norms(), batch()
    scaler, half = torch.amp.GradScaler("cpu"), torch.tensor(0.5)
    off = torch.amp.GradScaler("cpu", enabled=False)
    before = snapshot(net)
    with pytest.raises(ConfigError, match="multiplied by a GradScaler") as caught:
        sam_step(lambda: scaler.scale(loss_of(net, x, y)()), sgd(net), ball(masks.only_norm(net)))
    one_line(caught)
    assert identical(snapshot(net), before)
    for closure in (
        lambda: loss_of(net, x, y)() * half,
        lambda: off.scale(loss_of(net, x, y)()),
    ):
        sam_step(closure, sgd(net), ball(masks.only_norm(net)))


def test_a_closure_that_wants_arguments_is_told_so_and_its_own_errors_pass():
    net, (x, y) = two_norms(), batch()
    for step in (ball(masks.only_norm(net)), None):
        with pytest.raises(ConfigError, match=r"called without arguments .*'inputs'") as caught:
            sam_step(lambda inputs: loss_of(net, inputs, y)(), sgd(net), step)
        one_line(caught)
        with pytest.raises(TypeError, match="unsupported operand"):
            sam_step(lambda: loss_of(net, x, y)() + "1", sgd(net), step)


def test_an_optimizers_class_is_no_optimizer():
    net, (x, y) = two_norms(), batch()
    with pytest.raises(ConfigError, match=r"must be a torch\.optim\.Optimizer, not <class") as e:
        sam_step(loss_of(net, x, y), torch.optim.SGD, ball(masks.only_norm(net)))
    one_line(e)


def test_what_is_no_mask_is_named_by_its_type():
    net = two_norms()
    with pytest.raises(ConfigError, match="mask must be a samlib Mask, not <class 'list'>") as e:
        ball(list(net.parameters()))
    one_line(e)
