"""Top eigenvalues and traces of Hessians against dense Hessians of tiny networks."""

import copy
import functools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import MASK_OF, WHOLE, identical, one_line, selected, small_batch, small_net, snapshot
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from samlib import masks
from samlib.errors import ConfigError
from samlib.measures.hessian import NotConverged, top_eigenvalues, traces


def flat_loss(model, x, y):
    """The eval-mode loss as a function of all weights in one vector, and the vector."""
    parameters = dict(model.named_parameters())
    sizes = [p.numel() for p in parameters.values()]

    def loss(v):
        parts = zip(parameters.items(), v.split(sizes), strict=True)
        there = {name: part.view(p.shape) for (name, p), part in parts}
        logits = torch.func.functional_call(model, there, (x,))
        return (logits.logsumexp(1) - logits.gather(1, y[:, None]).flatten()).mean()

    return loss, torch.cat([p.detach().reshape(-1) for p in parameters.values()])


def dense_hessian(model, x, y, mask):
    """Its block on a mask."""
    return block(whole_hessian(model, x, y), mask)


def block(H, mask):
    on = selected(mask)
    return H[on][:, on].numpy()


def whole_hessian(model, x, y):
    """By forward over reverse mode."""
    model = copy.deepcopy(model).eval()
    loss, v = flat_loss(model, x, y)
    with warnings.catch_warnings():  # forward mode loads decompositions that torch itself scripts
        warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
        H = torch.func.hessian(loss)(v)
    torch.testing.assert_close(H, H.T)
    return H


class PlainNorm(nn.Module):
    """Layer norm in elementary operations, for functorch."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight + self.bias


def spelt_out(vit):
    """The same function without fused kernels.

    With torch's own layer norm, torch.func.hessian is wrong (not even symmetric): its batching
    rule is (pytorch/functorch#534).
    """
    vit = copy.deepcopy(vit)
    for block in vit.blocks:
        block.attn.fused_attn = False
        block.norm1, block.norm2 = PlainNorm(block.norm1), PlainNorm(block.norm2)
    vit.norm = PlainNorm(vit.norm)
    return vit


def used_net(norm=nn.BatchNorm2d):
    """A small net whose running statistics have seen data."""
    net = small_net(torch.float64, norm, seed=4)
    net(small_batch(torch.float64, seed=9)[0])
    return net


@functools.cache
def hessian_of_used_net():
    """Of every weight; it takes seconds."""
    return whole_hessian(used_net(), *small_batch(torch.float64))


def small_vit():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"img_size": 4, "patch_size": 2, "in_chans": 2, "num_classes": 3}
        vit = VisionTransformer(**shape, embed_dim=12, depth=1, num_heads=3, mlp_ratio=1).double()
        with torch.no_grad():
            for p in vit.parameters():  # none at its initial 0 or 1
                p.add_(torch.randn(p.shape, dtype=torch.float64) * 0.3)
    return vit


def vit_batch():
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(6, 2, 4, 4, generator=draw, dtype=torch.float64)
    return x, torch.randint(3, (6,), generator=draw)


def ordered(H, k, by):
    values = np.linalg.eigvalsh(H)
    return values[np.argsort(-values if by == "algebraic" else -np.abs(values))][:k]


@pytest.mark.parametrize("by", ["algebraic", "magnitude"])
@pytest.mark.parametrize("name", WHOLE)
def test_convolutions_with_batch_norm(name, by):
    net = used_net()
    x, y = small_batch(torch.float64)
    mask = MASK_OF[name](net)
    expected = ordered(block(hessian_of_used_net(), mask), 3, by)
    for batch_size in (256, 3):  # 8 examples: the last batch is shorter and weighs less
        options = {"by": by, "batch_size": batch_size, "tolerance": 1e-8}
        found = top_eigenvalues(net, x, y, mask, 3, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found.shape == (3,)
        assert found.dtype == np.float64


@pytest.mark.parametrize("make", [masks.all_parameters, masks.only_norm])
def test_attention(make):
    vit = small_vit()
    assert vit.blocks[0].attn.fused_attn
    x, y = vit_batch()
    mask, plain = make(vit), spelt_out(vit)
    torch.testing.assert_close(plain(x), vit(x))
    plain_mask = masks.from_booleans(
        plain, {e.name: torch.ones_like(e.parameter, dtype=torch.bool) for e in mask.entries}
    )
    H = dense_hessian(plain, x, y, plain_mask)
    for by in ("algebraic", "magnitude"):
        found = top_eigenvalues(vit, x, y, mask, 3, by=by, batch_size=4, tolerance=1e-8)
        np.testing.assert_allclose(found, ordered(H, 3, by), rtol=1e-6)


def blocks(mask):
    """Slices of a mask's vectors, one per tensor."""
    ends = np.cumsum([e.count for e in mask.entries])
    return [slice(end - e.count, end) for end, e in zip(ends, mask.entries, strict=True)]


@pytest.mark.parametrize("name", WHOLE)
def test_a_probe_sees_every_tensors_share_of_its_quadratic_form(name):
    net, (x, y) = used_net(), small_batch(torch.float64)
    mask = MASK_OF[name](net)
    H = dense_hessian(net, x, y, mask)
    draw = np.random.default_rng(5)
    vs = [draw.choice((-1.0, 1.0), len(H)) for _ in range(3)]
    expected = [[v[b] @ (H @ v)[b] for b in blocks(mask)] for v in vs]
    for batch_size in (256, 3):
        found = traces(net, x, y, mask, probes=3, batch_size=batch_size, seed=5)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_probes_estimate_the_trace_of_every_tensors_block():
    net, (x, y) = used_net(), small_batch(torch.float64)
    mask = masks.all_parameters(net)
    H = dense_hessian(net, x, y, mask)
    found = traces(net, x, y, mask, probes=400)
    off = found.mean(0) - [np.trace(H[b, b]) for b in blocks(mask)]
    errors = found.std(0, ddof=1) / 20
    assert (np.abs(off) < 4 * errors).all()
    assert abs(found.sum(1).mean() - np.trace(H)) < 4 * found.sum(1).std(ddof=1) / 20
    assert errors.sum() < 0.5 * np.trace(H), "the estimate is one"


def test_probes_of_attention():
    vit, (x, y) = small_vit(), vit_batch()
    plain = spelt_out(vit)
    named = {n: torch.ones_like(p, dtype=torch.bool) for n, p in vit.named_parameters()}
    whole = masks.from_booleans(plain, named)
    H = dense_hessian(plain, x, y, whole)
    v = np.random.default_rng(0).choice((-1.0, 1.0), len(H))
    found = traces(vit, x, y, masks.all_parameters(vit), probes=1, batch_size=4)
    assert found.sum() == pytest.approx(v @ H @ v, rel=1e-9)


class Product(nn.Module):
    """Logits (a b, 0): with both weights 0 the Hessian is an off-diagonal pair, +h and -h."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([shift, 0.0, 0.0], dtype=torch.float64))

    def forward(self, x):
        a, b, c = self.w
        first = x[:, 0] * (a * b - 0.3 * c**2)
        return torch.stack([first, torch.zeros_like(first)], 1)


def test_negative_eigenvalues():
    """For class 0 the loss at 0 is log 2 - f / 2 + ...: the Hessian is that of -f / 2."""
    net, x, y = Product(), torch.ones(2, 1, dtype=torch.float64), torch.tensor([0, 0])
    mask = masks.all_parameters(net)
    dense = ordered(dense_hessian(net, x, y, mask), 3, "algebraic")
    np.testing.assert_allclose(dense, [0.5, 0.3, -0.5])
    options = {"tolerance": 1e-10}
    np.testing.assert_allclose(top_eigenvalues(net, x, y, mask, 2, **options), [0.5, 0.3])
    found = top_eigenvalues(net, x, y, mask, 2, by="magnitude", **options)
    np.testing.assert_allclose(np.sort(found), [-0.5, 0.5])
    y = 1 - y  # the loss turned upside down in its second order
    np.testing.assert_allclose(top_eigenvalues(net, x, y, mask, 2, **options), [0.5, -0.3])


def test_a_loss_without_curvature_has_eigenvalues_zero():
    class Flat(nn.Module):
        """Equal logits, whatever the weights: H is zero, or but for rounding."""

        def __init__(self, factor):
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, dtype=torch.float64))
            self.factor = factor

        def forward(self, x):
            return (x * self.w**2 * self.factor).sum(1, keepdim=True).expand(-1, 3)

    for factor in (0, 1):
        net = Flat(factor)
        x, y = torch.ones(2, 4, dtype=torch.float64), torch.tensor([0, 2])
        found = top_eigenvalues(net, x, y, masks.all_parameters(net), 2)
        np.testing.assert_allclose(found, [0, 0], atol=1e-15)


def test_single_precision_and_memory_format():
    net = used_net()
    x, y = small_batch(torch.float64)
    expected = ordered(dense_hessian(net, x, y, masks.all_parameters(net)), 2, "algebraic")
    net, x = net.float().to(memory_format=torch.channels_last), x.float()
    found = top_eigenvalues(net, x, y, masks.all_parameters(net), 2, batch_size=4)
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        again = top_eigenvalues(net, x, y, masks.all_parameters(net), 2, batch_size=4)
    np.testing.assert_array_equal(again, found)


def test_the_start_vector_does_not_decide():
    net = used_net()
    x, y = small_batch(torch.float64)
    mask = masks.only_norm(net)
    found = [top_eigenvalues(net, x, y, mask, 2, tolerance=1e-8, seed=s) for s in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], rtol=1e-6)


class Fails(RuntimeError):
    pass


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails):
    net = small_net()
    net.norm2.eval()  # a mixture of modes
    x, y = small_batch()
    F.cross_entropy(net(x), y).backward()
    parameters = list(net.parameters())
    before, grads = snapshot(net), [p.grad.clone() for p in parameters]
    modes, state = [m.training for m in net.modules()], torch.get_rng_state()
    calls = 0

    def bomb(*_):
        nonlocal calls
        calls += 1
        if fails and calls == 3:
            raise Fails

    handle = net.fc.register_forward_pre_hook(bomb)
    mask = masks.no_norm(net)
    if fails:
        with pytest.raises(Fails):
            top_eigenvalues(net, x, y, mask)
    else:
        assert top_eigenvalues(net, x, y, mask) > 0
    handle.remove()
    assert identical(before, snapshot(net))
    assert all(map(torch.equal, grads, (p.grad for p in parameters)))
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(state, torch.get_rng_state())


def test_giving_up_is_said():
    net = used_net()
    x, y = small_batch(torch.float64)
    mask = masks.all_parameters(net)
    options = {"tolerance": 1e-12, "max_products": 25}
    with pytest.raises(NotConverged, match="within 25 products") as caught:
        top_eigenvalues(net, x, y, mask, 5, **options)
    assert "max_products" in one_line(caught)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"k": 0}, "k must be an integer >= 1"),
        ({"k": 25}, "k = 25 is too many: the mask has 20 coordinates"),
        ({"by": "LA"}, "unknown order of eigenvalues 'LA'; valid: algebraic, magnitude"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"max_products": 0}, "max_products must be"),
        ({"tolerance": 0.0}, "tolerance must be between 0 and 1"),
        ({"labels": torch.zeros(7, dtype=torch.int64)}, "7 labels do not fit"),
        ({"labels": torch.full((8,), 5)}, "labels must be from 0 to 2"),
        ({"model": small_net()}, "is not a parameter of the model given"),
    ],
)
def test_bad_input_is_named(bad, said):
    net = small_net()
    x, y = small_batch()
    arguments = {"model": net, "inputs": x, "labels": y, "mask": masks.only_norm(net)} | bad
    with pytest.raises(ConfigError, match=said) as caught:
        top_eigenvalues(**arguments)
    one_line(caught)


def test_weights_that_are_not_finite_are_named():
    net = small_net()
    with torch.no_grad():
        net.fc.bias[0] = float("nan")
    with pytest.raises(ConfigError, match="Hessian is not finite") as caught:
        top_eigenvalues(net, *small_batch(), masks.all_parameters(net))
    one_line(caught)
    with pytest.raises(ConfigError, match="Hessian is not finite"):
        traces(net, *small_batch(), masks.all_parameters(net), probes=1)
