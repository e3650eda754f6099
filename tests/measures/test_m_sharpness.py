"""m-sharpness: against brute force, closed forms, and what must not change."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import (
    MASK_OF,
    WHOLE,
    flat,
    identical,
    one_line,
    selected,
    small_batch,
    small_net,
    snapshot,
)
from torch import nn

from samlib import masks
from samlib.errors import ConfigError
from samlib.measures import m_sharpness as measuring
from samlib.measures.m_sharpness import halving_steps, m_sharpness, normalized
from samlib.sam.masks.base import Entry, Mask

INF = math.inf


class Two(nn.Module):
    """Three logits from two parameters, far from linear in them."""

    def __init__(self, w=(0.7, -1.3)):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x):
        return two_logits(self.w, x)


def two_logits(w, x):
    hidden = torch.tanh(x * w)
    return torch.cat([hidden, hidden.prod(-1, keepdim=True) + 0.3], -1)


def two_data(seed, n=6):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=draw, dtype=torch.float64) * 2
    return x, torch.randint(3, (n,), generator=draw)


def cross_entropy(logits, y, normalize):
    """By hand in numpy: mean over examples of log sum exp(z) - z_y, for (..., n, classes)."""
    z = np.asarray(logits, dtype=np.float64)
    if normalize:
        z = z - z.mean(-1, keepdims=True)
        z = z / np.sqrt((z**2).sum(-1, keepdims=True))
    return (np.log(np.exp(z).sum(-1)) - z[..., np.arange(len(y)), np.asarray(y)]).mean(-1)


def brute_force(net, x, y, rho, c, p, normalize, points=101):
    """The largest rise of one batch's loss on a dense grid over the ball, its rim included."""
    if p == INF:
        line = np.linspace(-rho, rho, points)
        u = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    else:
        angle, radius = np.meshgrid(
            np.linspace(0, 2 * math.pi, 3 * points), np.linspace(0, rho, points // 2)
        )
        u = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(-1, 2)
    at = net.w.detach()
    base = cross_entropy(two_logits(at, x), y, normalize)
    there = (at + torch.from_numpy(u) * c)[:, None]
    return (cross_entropy(two_logits(there, x), y, normalize) - base).max()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("p", [INF, 2])
def test_brute_force_on_two_parameters(p, adaptive, normalize):
    net = Two()
    c = net.w.detach().abs() if adaptive else torch.ones(2, dtype=torch.float64)
    for seed in range(3):
        x, y = two_data(seed)
        expected = np.mean(
            [brute_force(net, x[i : i + 3], y[i : i + 3], 0.4, c, p, normalize) for i in (0, 3)]
        )
        options = {"batch_size": 3, "p": p, "adaptive": adaptive, "normalize_logits": normalize}
        found = m_sharpness(net, x, y, masks.all_parameters(net), rho=0.4, steps=40, **options)
        # The grid may miss the maximum by its spacing; APGD may not exceed it by more.
        assert expected * (1 - 1e-4) <= found <= expected * (1 + 1e-3)


class Linear(nn.Module):
    def __init__(self, features=4, classes=3, seed=0):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        w = torch.randn(classes, features, generator=draw, dtype=torch.float64)
        self.w = nn.Parameter(w)

    def forward(self, x):
        return x @ self.w.T


def linear_data(n=6, classes=3):
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(n, 4, generator=draw, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=draw)


def linear_worst_case(net, x, y, rho, adaptive):
    """Closed form for one example: the true class falls, every other rises, by rho c |x|."""
    w = net.w.detach().numpy()
    c = np.abs(w) if adaptive else np.ones_like(w)
    rises = []
    for xi, yi in zip(x.numpy(), y.numpy(), strict=True):
        shift = rho * c @ np.abs(xi)
        shift[yi] *= -1
        z = np.stack([w @ xi, w @ xi + shift])
        rises.append(cross_entropy(z[1:], [yi], False) - cross_entropy(z[:1], [yi], False))
    return np.mean(rises)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("rho", [0.01, 0.3])
def test_one_step_is_exact_for_a_linear_model_and_reaches_the_boundary(rho, adaptive):
    net = Linear()
    x, y = linear_data()
    mask = masks.all_parameters(net)
    options = {"batch_size": 1, "adaptive": adaptive, "normalize_logits": False}
    expected = linear_worst_case(net, x, y, rho, adaptive)
    for steps in (1, 20):
        found = m_sharpness(net, x, y, mask, rho=rho, steps=steps, **options)
        assert found == pytest.approx(expected, rel=1e-12)
    # the public implementation's first step stops at 0.75 rho; later ones go on from there
    damped = dict(rho=rho, damped_first_step=True, **options)
    quirk = m_sharpness(net, x, y, mask, steps=1, **damped)
    assert quirk == pytest.approx(linear_worst_case(net, x, y, 0.75 * rho, adaptive), rel=1e-12)
    assert m_sharpness(net, x, y, mask, steps=20, **damped) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("adaptive", [True, False])
def test_one_l2_step_is_exact_for_a_linear_model_of_two_classes(adaptive):
    """There the loss is softplus(-margin), and the margin falls by at most rho ||c dm/dw||."""
    net = Linear(classes=2)
    x, y = linear_data(classes=2)
    w = net.w.detach().numpy()
    c = np.abs(w) if adaptive else np.ones_like(w)
    rises = []
    for xi, yi in zip(x.numpy(), y.numpy(), strict=True):
        margin = (w[yi] - w[1 - yi]) @ xi
        worst = margin - 0.2 * np.sqrt(((c * xi) ** 2).sum())
        rises.append(np.log1p(np.exp(-worst)) - np.log1p(np.exp(-margin)))
    options = {"batch_size": 1, "p": 2, "adaptive": adaptive, "normalize_logits": False}
    found = m_sharpness(net, x, y, masks.all_parameters(net), rho=0.2, steps=1, **options)
    assert found == pytest.approx(np.mean(rises), rel=1e-12)


def visited(net, mask, **options):
    """Every delta at which the network is evaluated, as rows, seen from inside its forward."""
    x, y = small_batch(torch.float64)
    at = flat(p for _, p in mask.trainable).clone()
    rows = []

    def look(module, _):
        rows.append(flat(p for n, p in net.named_parameters()) - at)

    handle = net.register_forward_pre_hook(look)
    m_sharpness(net, x, y, mask, batch_size=4, **options)
    handle.remove()
    return at, torch.stack(rows)


@pytest.mark.parametrize("p", [INF, 2])
@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("name", WHOLE)
def test_every_iterate_is_in_the_ball_and_on_the_mask(name, adaptive, p):
    net = small_net(torch.float64)
    mask = MASK_OF[name](net)
    on = selected(mask)
    at, deltas = visited(net, mask, rho=0.05, steps=6, adaptive=adaptive, p=p)
    assert len(deltas) == 2 * 7
    assert (deltas[:, ~on] == 0).all()
    assert (deltas[0] == 0).all()
    assert (deltas[7] == 0).all()  # every batch starts from w, not where the last one ended
    u = deltas[:, on] / (at[on].abs() if adaptive else 1)
    if p == INF:
        assert (u.abs() <= 0.05 * (1 + 1e-9)).all()
        # the first step goes to the corner of the box that the gradient's signs name
        x, y = small_batch(torch.float64)
        net.eval()
        z = net(x[:4])
        z = z - z.mean(1, keepdim=True)
        F.cross_entropy(z / z.norm(dim=1, keepdim=True), y[:4]).backward()
        signs = torch.cat([q.grad.flatten() for _, q in mask.trainable])[on].sign()
        torch.testing.assert_close(u[1], 0.05 * signs, rtol=0, atol=1e-12)
    else:
        assert (u.norm(dim=1) <= 0.05 * (1 + 1e-9)).all()
        assert u[1].norm() == pytest.approx(0.05)


@pytest.mark.parametrize("p", [INF, 2])
def test_the_first_step_of_the_public_implementation_is_three_quarters_of_rho(p):
    net = small_net(torch.float64)
    options = {"rho": 0.05, "steps": 1, "adaptive": False, "p": p}
    _, full = visited(net, masks.all_parameters(net), **options)
    _, damped = visited(net, masks.all_parameters(net), damped_first_step=True, **options)
    assert torch.linalg.vector_norm(full[1], p).item() == pytest.approx(0.05)
    torch.testing.assert_close(damped, 0.75 * full, rtol=0, atol=1e-12)


@pytest.mark.parametrize("p", [INF, 2])
def test_iterates_follow_croce_and_hein(p):
    """Algorithm 1 written out for one batch in flat vectors, against the iterates visited."""
    net, steps, rho = small_net(torch.float64, seed=2), 20, 0.6
    mask = masks.all_parameters(net)
    shapes = dict(net.named_parameters())
    x, y = small_batch(torch.float64)
    at, rows = visited(net, mask, rho=rho, steps=steps, p=p)
    net.eval()

    def f(v):
        parts = v.split([w.numel() for w in shapes.values()])
        there = {n: t.view(w.shape) for (n, w), t in zip(shapes.items(), parts, strict=True)}
        z = torch.func.functional_call(net, there, (x[:4],))
        z = z - z.mean(1, keepdim=True)
        return F.cross_entropy(z / z.norm(dim=1, keepdim=True), y[:4])

    def gradient(v):
        g = torch.autograd.functional.jacobian(f, at + at.abs() * v) * at.abs()
        return g.sign() if p == INF else g / g.norm()

    def project(v):
        return v.clamp(-rho, rho) if p == INF else v * min(1, rho / v.norm().item())

    def value(v):
        return f(at + at.abs() * v).item()

    x0 = torch.zeros_like(at)
    eta = 2 * rho
    seen = [x0, project(x0 + eta * gradient(x0))]
    previous, current = seen
    values = [value(x0), value(current)]
    f_max, x_max = max((values[1], current), (values[0], x0), key=lambda pair: pair[0])
    rises, kept, f_before, w_before, halvings = [values[1] > values[0]], False, values[0], 0, 0
    for k in range(2, steps + 1):
        if k - 1 in (5, 9, 12, 15, 16, 18, 19, 20):
            few = sum(rises) < 0.75 * (k - 1 - w_before)
            if few or (not kept and f_max == f_before):
                eta, current, kept, halvings = eta / 2, x_max, True, halvings + 1
                last = f_max
            else:
                kept, last = False, values[-1]
            rises, f_before, w_before = [], f_max, k - 1
        else:
            last = values[-1]
        z = project(current + eta * gradient(current))
        step = current + 0.75 * (z - current) + 0.25 * (current - previous)
        previous, current = current, project(step)
        seen.append(current)
        values.append(value(current))
        rises.append(values[-1] > last)
        if values[-1] > f_max:
            f_max, x_max = values[-1], current
    assert halvings >= 2
    torch.testing.assert_close(rows[:21], torch.stack(seen) * at.abs(), rtol=0, atol=1e-9)
    found = m_sharpness(net, x[:4], y[:4], mask, rho=rho, steps=steps, batch_size=4, p=p)
    assert found == pytest.approx(f_max - values[0], rel=1e-9)


def test_the_step_is_halved_when_the_best_loss_stands_still():
    """Scripted: the best loss comes first, then rises from lower down that never reach it."""
    steps = 100
    losses = [0.0, 1.0] + [1e-3 * i for i in range(2, steps + 1)]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], steps + 1)
    seen = []

    def loss_at(u, gradient):
        i = len(seen)
        seen.append(u[0].item())
        return losses[i], [torch.tensor([signs[i]], dtype=torch.float64)] if gradient else []

    start = [torch.zeros(1, dtype=torch.float64)]
    assert measuring._apgd(loss_at, start, 1.0, steps, INF, False) == 1  # the best, not the last
    # Nearly all steps improve. At 22 the best loss is new; at 41 it is not: halve; at 58 it is
    # not, but the step has just been halved; at 70 halve; at 80 again not.
    u = before = 0.0
    size, grad, expected = 2.0, signs[0], [0.0]
    for i in range(1, 81):
        z = np.clip(u + size * grad, -1, 1)
        alpha = 1 if i == 1 else 0.75
        before, u = u, np.clip(u + alpha * (z - u) + (1 - alpha) * (u - before), -1, 1)
        expected.append(u)
        grad = signs[i]
        if i in (41, 70):
            size, u, grad = size / 2, expected[1], signs[1]
    np.testing.assert_allclose(seen[:81], expected, atol=1e-12)


def test_the_step_may_be_halved_after():
    assert halving_steps(20) == [5, 9, 12, 15, 16, 18, 19, 20]
    assert halving_steps(1) == [1]
    assert halving_steps(100) == [22, 41, 58, 70, 80, 87, 93, 99]


def test_monotone_in_rho_and_in_steps_and_never_negative():
    net = Two()
    x, y = two_data(4)
    mask = masks.all_parameters(net)
    radii = (0.0, 1e-6, 0.01, 0.05, 0.2, 0.5)
    values = [m_sharpness(net, x, y, mask, rho=r, steps=40, batch_size=2) for r in radii]
    assert values[0] == 0
    assert values == sorted(values)
    # far too large a ball: one step overshoots; delta = 0 is among the iterates
    x, y = small_batch(torch.float64)
    net = small_net(torch.float64)
    mask = masks.all_parameters(net)
    options = {"batch_size": 4, "adaptive": False}
    for rho in (0.1, 3.0, 100.0):
        one = m_sharpness(net, x, y, mask, rho=rho, steps=1, **options)
        # the first step is the same, so more steps can only find more
        ten = m_sharpness(net, x, y, mask, rho=rho, steps=10, **options)
        assert 0 <= one <= ten


def test_a_step_that_only_lowers_the_loss_counts_as_zero():
    """One example at the maximum of its loss: the gradient is zero or leads nowhere."""

    class Bump(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1e-3], dtype=torch.float64))

        def forward(self, x):  # the margin is smallest at w = 0
            return torch.cat([x * self.w**2, 0 * x], 1)

    net = Bump()
    x, y = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0])
    options = {"rho": 1.0, "batch_size": 1, "adaptive": False, "normalize_logits": False}
    assert m_sharpness(net, x, y, masks.all_parameters(net), steps=1, **options) == 0
    # more steps find the top at w = 0, 0.25e-6 nats higher
    found = m_sharpness(net, x, y, masks.all_parameters(net), steps=60, **options)
    assert 0 <= found <= 0.51e-6


class Pair(nn.Module):
    """`Two` with a parameter for each of its two numbers."""

    def __init__(self, w=(0.7, -1.3)):
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.tensor([v], dtype=torch.float64)) for v in w)

    def forward(self, x):
        return two_logits(torch.cat([self.first, self.second]), x)


def test_subsets_are_as_sharp_as_brute_force_says_and_no_sharper_than_the_whole():
    net, (x, y) = Pair(), two_data(1)

    def over(*names):
        mask = Mask(net, [Entry(name, getattr(net, name)) for name in names], kind="chosen")
        return m_sharpness(net, x, y, mask, rho=0.3, steps=40, batch_size=6)

    def brute(at):
        losses = []
        for u in np.linspace(-0.3, 0.3, 601):
            w = torch.tensor([0.7, -1.3], dtype=torch.float64)
            w[at] *= 1 + u
            losses.append(cross_entropy(two_logits(w, x), y, True))
        return max(losses) - losses[300]

    whole = over("first", "second")
    for at, name in enumerate(("first", "second")):
        assert over(name) == pytest.approx(brute(at), rel=1e-3)
        assert 0 < over(name) < whole
    assert whole == m_sharpness(
        net, x, y, masks.all_parameters(net), rho=0.3, steps=40, batch_size=6
    )


def test_a_mask_of_single_coordinates_is_refused():
    net = small_net()
    with pytest.raises(
        ConfigError, match=r"single coordinates of conv1.weight.* whole param"
    ) as no:
        m_sharpness(net, *small_batch(), MASK_OF["coordinates"](net), **GOOD)
    one_line(no)


@pytest.mark.parametrize("p", [INF, 2])
def test_smaller_batches_are_at_least_as_sharp(p):
    """The mean of the maxima is at least the maximum of the mean."""
    net = Two()
    mask = masks.all_parameters(net)
    for seed in range(3):
        x, y = two_data(seed, 8)
        by_m = [
            m_sharpness(net, x, y, mask, rho=0.4, steps=40, batch_size=m, p=p) for m in (1, 2, 8)
        ]
        assert all(a >= b - 1e-6 for a, b in itertools.pairwise(by_m))
        assert by_m[0] > by_m[-1]


def test_normalized_logits():
    z = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_hand = z.numpy() - z.numpy().mean(1, keepdims=True)
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    torch.testing.assert_close(normalized(z), torch.from_numpy(by_hand))
    torch.testing.assert_close(normalized(7 * z + 3), normalized(z))
    assert normalized(torch.full((2, 3), 5.0)).eq(0).all()


@pytest.mark.parametrize("p", [INF, 2])
def test_scaling_the_last_layer_changes_raw_sharpness_only(p):
    net = small_net(torch.float64)
    scaled = copy.deepcopy(net)
    with torch.no_grad():
        for q in scaled.fc.parameters():
            q.mul_(5)
    x, y = small_batch(torch.float64)

    def measure(model, normalize):
        mask = masks.all_parameters(model)
        options = {"rho": 0.05, "steps": 10, "batch_size": 4, "p": p, "normalize_logits": normalize}
        return m_sharpness(model, x, y, mask, **options)

    assert measure(scaled, True) == pytest.approx(measure(net, True), rel=1e-9)
    assert measure(scaled, False) > 1.5 * measure(net, False)


def test_it_is_measured_in_eval_mode_and_per_batch():
    net = small_net(torch.float64)
    net(small_batch(torch.float64)[0])  # running statistics other than 0 and 1
    x, y = small_batch(torch.float64)
    options = {"rho": 0.05, "steps": 5}
    found = m_sharpness(net, x, y, masks.only_norm(net), batch_size=2, **options)
    net.eval()
    mask = masks.only_norm(net)
    one = [
        m_sharpness(net, x[i : i + 2], y[i : i + 2], mask, batch_size=2, **options)
        for i in range(0, 8, 2)
    ]
    assert found == pytest.approx(np.mean(one), rel=1e-12)
    assert len({round(v, 12) for v in one}) == 4


class Fails(RuntimeError):
    pass


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_left_behind(name, fails, dtype):
    net = small_net(dtype).to(memory_format=torch.channels_last)
    net.norm1.eval()  # a mixture of modes
    x, y = small_batch(dtype)
    F.cross_entropy(net(x), y).backward()
    mask = MASK_OF[name](net)
    parameters = list(net.parameters())
    before, grads = snapshot(net), [p.grad.clone() for p in parameters]
    modes = [m.training for m in net.modules()]
    calls = 0

    def bomb(*_):
        nonlocal calls
        calls += 1
        if fails and calls == 4:
            raise Fails

    handle = net.fc.register_forward_pre_hook(bomb)
    state = torch.get_rng_state()
    with torch.no_grad():  # the caller's mode does not matter
        if fails:
            with pytest.raises(Fails):
                m_sharpness(net, x, y, mask, rho=0.1, steps=3, batch_size=4)
        else:
            assert m_sharpness(net, x, y, mask, rho=0.1, steps=3, batch_size=4) > 0
    handle.remove()
    assert identical(before, snapshot(net))
    assert all(map(torch.equal, grads, (p.grad for p in parameters)))
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    assert all(p.requires_grad for p in parameters)
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(state, torch.get_rng_state())


def test_it_repeats_and_ignores_autocast():
    net = small_net()
    x, y = small_batch()

    def measure():
        return m_sharpness(net, x, y, masks.all_parameters(net), rho=0.01, steps=5, batch_size=4)

    first = measure()
    with torch.autocast("cpu", torch.bfloat16):
        assert measure() == first
    assert measure() == first


def test_tied_and_unused_parameters():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(3, 3, bias=False).double()
            self.two = nn.Linear(3, 3, bias=False).double()
            self.two.weight = self.one.weight
            self.unused = nn.Linear(3, 3).double()

        def forward(self, x):
            return self.two(torch.tanh(self.one(x)))

    net = Tied()
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 1, 2, 0])
    weight = net.one.weight.detach().clone()
    seen = []
    net.two.register_forward_pre_hook(lambda m, _: seen.append(m.weight.detach().clone()))
    mask = masks.all_parameters(net)
    assert m_sharpness(net, x, y, mask, rho=0.1, steps=2, batch_size=4) > 0
    assert not torch.equal(seen[1], weight)
    only_unused = Mask(net, [Entry("unused.bias", net.unused.bias)], kind="chosen")
    with pytest.raises(ConfigError, match="no gradient in any parameter of the mask") as caught:
        m_sharpness(net, x, y, only_unused, rho=0.1, steps=2, batch_size=4)
    one_line(caught)


GOOD = {"rho": 0.1, "steps": 1, "batch_size": 4}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"rho": -1}, "rho must be finite"),
        ({"rho": math.nan}, "rho must be finite"),
        ({"rho": math.inf}, "rho must be finite"),
        ({"rho": "1"}, "rho must be a number"),
        ({"rho": True}, "rho must be a number"),
        ({"steps": 0}, "steps must be an integer >= 1, not 0"),
        ({"steps": 1.0}, "steps must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": 3}, "8 examples are no whole number of batches of 3"),
        ({"p": 1}, "p must be 2 or math.inf, not 1"),
        ({"p": "inf"}, "p must be"),
        ({"labels": torch.zeros(7, dtype=torch.int64)}, "7 labels do not fit"),
        ({"labels": torch.zeros(8)}, "labels must be int64"),
        ({"labels": torch.full((8,), 3)}, "labels must be from 0 to 2"),
        ({"labels": torch.full((8,), -1)}, "labels must be from 0 to 2"),
        ({"model": small_net()}, "the mask's conv1.weight is not a parameter"),
    ],
)
def test_bad_input_is_named(bad, said):
    net = small_net()
    x, y = small_batch()
    arguments = (
        {"model": net, "inputs": x, "labels": y, "mask": masks.all_parameters(net)} | GOOD | bad
    )
    with pytest.raises(ConfigError, match=said) as caught:
        m_sharpness(**arguments)
    one_line(caught)


def test_models_that_give_no_logits_or_no_number_are_named():
    net = small_net()
    x, y = small_batch()
    mask = masks.all_parameters(net)
    with torch.no_grad():
        net.fc.bias[0] = math.nan
    with pytest.raises(ConfigError, match="not finite at the model's weights"):
        m_sharpness(net, x, y, mask, **GOOD)
    with torch.no_grad():
        net.fc.bias[0] = 1e37
    with pytest.raises(ConfigError, match="not finite within rho = 100 of") as caught:
        m_sharpness(net, x, y, mask, **GOOD | {"rho": 100, "normalize_logits": False})
    one_line(caught)
    net.fc = nn.Identity()
    net.norm2.register_forward_hook(lambda *_: torch.zeros(8, 1, 1, 1))
    mask = masks.all_parameters(net)
    net.fc.register_forward_hook(lambda *_: torch.zeros(8))
    with pytest.raises(ConfigError, match="logits of shape"):
        m_sharpness(net, x, y, mask, **GOOD | {"batch_size": 8})
