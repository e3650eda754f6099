"""Masks of single coordinates: how many, which, when they change, and how they continue."""

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    closure_of,
    flat,
    identical,
    one_line,
    selected,
    small_batch,
    small_net,
    snapshot,
)
from helpers import on_meta

from samlib.errors import ConfigError
from samlib.sam import source
from samlib.sam.geometry import L2
from samlib.sam.masks import ssam
from samlib.sam.masks.base import trainable
from samlib.sam.masks.by_name import MASKS
from samlib.sam.masks.sparse import keep_count, random
from samlib.sam.masks.ssam import dynamic, fisher, fisher_scores, replaced
from samlib.sam.masks.whole import only_norm
from samlib.sam.perturbation import Perturbation
from samlib.sam.step import sam_step
from samlib.trainer.config import RunConfig

TOTAL = sum(p.numel() for p in small_net().parameters())
WRN28_10 = 36_536_884  # trainable coordinates at 100 classes


def no_sample(n):
    raise AssertionError("this mask asks for no examples")


def chosen(mask):
    """Selected positions, checked to be ascending and without repetition."""
    positions = mask.flat
    assert (positions.diff() > 0).all()
    assert torch.equal(selected(mask).nonzero().flatten(), positions)
    return set(positions.tolist())


# --- how many ------------------------------------------------------------------------------------


def test_counts_kept():
    assert keep_count(WRN28_10, 0.9995) == 18_268  # N - ceil(N s), specification 2.2
    assert keep_count(WRN28_10, 1 - 17_952 / WRN28_10) == 17_952
    assert keep_count(1_000, 0.9) == 100  # not 99: 1 - 0.9 is less than 0.1 in binary
    assert keep_count(1_000, 0) == 1_000
    assert keep_count(10, 0.99) == 1
    for total in range(1, 400, 7):
        for kept in range(1, total + 1):
            assert keep_count(total, 1 - kept / total) == kept


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan])
def test_bad_sparsity(sparsity):
    net = small_net()
    for make in (
        lambda: random(net, sparsity=sparsity),
        lambda: fisher(net, sparsity=sparsity),
        lambda: dynamic(net, sparsity=sparsity, epochs=3),
    ):
        with pytest.raises(ConfigError, match=r"sparsity must be in \[0, 1\)") as caught:
            make()
        one_line(caught)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: random(net), "either count or sparsity"),
        (lambda net: random(net, count=3, sparsity=0.5), "either count or sparsity"),
        (lambda net: random(net, count=0), f"count must be 1 to {TOTAL}, not 0"),
        (lambda net: random(net, count=TOTAL + 1), f"count must be 1 to {TOTAL}"),
        (lambda net: fisher(net, sparsity=0.5, samples=0), "must be >= 1, not 0 and 5"),
        (lambda net: fisher(net, sparsity=0.5, every=0), "must be >= 1, not 1024 and 0"),
        (lambda net: dynamic(net, sparsity=0.5, epochs=0), "epochs >= 1"),
        (lambda net: dynamic(net, sparsity=0.5, epochs=3, every=0), "every >= 1"),
        (lambda net: dynamic(net, sparsity=0.5, epochs=3, drop_rate=1.1), "drop_rate <= 1"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make(small_net())
    one_line(caught)


def test_half_precision_is_refused_wherever_it_is():
    net = small_net()
    net.fc.bfloat16()
    for make in (
        lambda: random(net, count=5),
        lambda: fisher(net, sparsity=0.9),
        lambda: dynamic(net, sparsity=0.9, epochs=3),
    ):
        with pytest.raises(ConfigError, match=r"parameters are torch\.bfloat16") as caught:
            make()
        one_line(caught)


def test_by_name_they_keep_as_many_as_the_norm_layers_have():
    net = small_net()
    for kind in ("random", "random_redrawn", "fisher", "dynamic"):
        config = RunConfig(geometry="l2", rho=0.1, mask=kind, seed=3)
        assert MASKS[kind](net, config).count == only_norm(net).count == 20
        assert MASKS[kind](net, config.replace(sparsity=0.5)).count == TOTAL // 2
    seeds = [RunConfig(geometry="l2", mask="random", seed=s) for s in (3, 4)]
    assert len({tuple(MASKS["random"](net, c).flat.tolist()) for c in seeds}) == 2


@pytest.mark.slow
def test_dynamic_keeps_18268_of_the_wide_network():
    mask = dynamic(on_meta("wrn28_10", 100), sparsity=0.9995, epochs=200)
    assert (mask.count, mask.total) == (18_268, WRN28_10)


# --- random --------------------------------------------------------------------------------------


def test_random_is_exact_seeded_and_leaves_the_global_generator():
    net = small_net()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    picks = {seed: chosen(random(net, count=37, seed=seed)) for seed in range(4)}
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert all(len(p) == 37 for p in picks.values())
    assert picks[2] == chosen(random(net, count=37, seed=2))
    assert len({frozenset(p) for p in picks.values()}) == 4
    assert random(net, count=TOTAL).count == TOTAL


def test_random_is_uniform_over_all_coordinates():
    net = small_net()
    seeds, count = 200, TOTAL // 5
    hits = sum(selected(random(net, count=count, seed=s)).double() for s in range(seeds))
    ends = torch.tensor([0] + [p.numel() for p in net.parameters()]).cumsum(0).tolist()
    for bins in ([slice(a, b) for a, b in pairwise(ends)], range(TOTAL)):
        observed = torch.stack([hits[b].sum() for b in bins])
        size = torch.stack([torch.ones(TOTAL)[b].sum() for b in bins])
        # drawn without replacement, so the variance is a little less than the expected count
        expected = seeds * count * size / TOTAL
        statistic = ((observed - expected) ** 2 / (expected * (1 - count / TOTAL))).sum()
        degrees = len(bins) - 1
        assert abs(statistic - degrees) < 4 * math.sqrt(2 * degrees)


def test_fixed_and_redrawn():
    net = small_net()
    fixed, redrawn = random(net, count=30, seed=1), random(net, count=30, seed=1, redraw=True)
    first, seen = chosen(fixed), []
    for epoch in range(4):
        for mask in (fixed, redrawn):
            mask.begin_epoch(epoch, no_sample)
        assert chosen(fixed) == first
        assert redrawn.count == 30
        seen.append(frozenset(chosen(redrawn)))
    assert seen[0] == first  # the first epoch's is the one it was made with
    assert len(set(seen)) == 4


# --- fisher --------------------------------------------------------------------------------------


def scores_one_by_one(net, x, y):
    net = copy.deepcopy(net).eval()
    parameters = [p for _, p in trainable(net)]
    total = 0
    for i in range(len(x)):
        loss = F.cross_entropy(net(x[i : i + 1]), y[i : i + 1])
        total = total + flat(torch.autograd.grad(loss, parameters)) ** 2
    return total


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("training", [True, False])
def test_fisher_scores_are_squared_gradients_of_single_samples(training, chunk, monkeypatch):
    net = small_net(torch.float64).train(training)
    net.conv2.weight.requires_grad_(False)
    x, y = small_batch(torch.float64, n=7)
    net.norm1.running_mean += 0.3
    frozen = TOTAL - net.conv2.weight.numel()
    monkeypatch.setattr(ssam, "_CHUNK", chunk * frozen)
    before = snapshot(net)
    scores = fisher_scores(net, x, y)
    torch.testing.assert_close(scores, scores_one_by_one(net, x, y), rtol=1e-10, atol=1e-20)
    assert net.training is training
    assert identical(snapshot(net), before)
    assert all(p.grad is None for p in net.parameters())


def test_a_gpu_scores_as_many_samples_at_once_as_its_memory_has_room_for(monkeypatch):
    free = 2**36  # bytes, 64 GiB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * 2**30))
    assert ssam._at_once(torch.device("cpu")) == ssam._CHUNK
    assert 4 * ssam._at_once(torch.device("cuda")) == free // 8
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**20, 80 * 2**30))
    assert ssam._at_once(torch.device("cuda")) == ssam._CHUNK


def test_fisher_restores_the_mode_after_an_error():
    net = small_net()
    with pytest.raises(RuntimeError):
        fisher_scores(net, torch.zeros(2, 5, 6, 6), torch.zeros(2, dtype=torch.int64))
    assert net.training


def test_fisher_leaves_every_layer_in_its_own_mode():
    net = small_net()
    net.norm1.eval()
    before = [m.training for m in net.modules()]
    fisher_scores(net, *small_batch(n=3))
    assert [m.training for m in net.modules()] == before


def test_fisher_mask_is_the_top_of_the_scores():
    net = small_net(torch.float64)
    x, y = small_batch(torch.float64, n=6)
    mask = fisher(net, sparsity=1 - 25 / TOTAL, samples=6, every=2)
    asked = []

    def sample(n):
        asked.append(n)
        return x[: n - len(asked) + 1], y[: n - len(asked) + 1]

    mask.begin_epoch(0, sample)
    order = scores_one_by_one(net, x, y).argsort(descending=True).tolist()
    assert chosen(mask) == set(order[:25])
    first = chosen(mask)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.5).add_(0.1)
    mask.begin_epoch(1, sample)
    assert chosen(mask) == first
    mask.begin_epoch(2, sample)
    assert asked == [6, 6]
    order = scores_one_by_one(net, x[:5], y[:5]).argsort(descending=True).tolist()
    assert chosen(mask) == set(order[:25]) != first


# --- dynamic -------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [0, 1, 5, 25, 50, 100, 150, 195, 200])
def test_replaced_by_the_cosine(epoch):
    count, rate = 18_268, 0.5 * (1 + math.cos(math.pi * epoch / 200)) / 2
    assert replaced(count, WRN28_10, 0.5, epoch, 200) == count - int(count * (1 - rate))


def test_no_more_are_replaced_than_are_dead():
    assert replaced(100, 110, 0.5, 0, 10) == 10
    assert replaced(100, 100, 0.5, 0, 10) == 0
    assert replaced(100, 1000, 0.0, 0, 10) == 0


@pytest.mark.parametrize(("rate", "every"), [(0.5, 2), (1.0, 1), (0.3, 5)])
def test_dynamic_drops_the_smallest_and_grows_from_the_dead(rate, every):
    net, epochs, count = small_net(), 10, 40
    mask = dynamic(
        net, sparsity=1 - count / TOTAL, epochs=epochs, drop_rate=rate, every=every, seed=2
    )
    draw = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        mask.begin_epoch(epoch, no_sample)
        for step in range(2):
            live, dead = chosen(mask), set(range(TOTAL)) - chosen(mask)
            grads = [torch.randn(e.count, generator=draw) for e in mask.entries]
            size = dict(zip(mask.flat.tolist(), flat(grads).abs().tolist(), strict=True))
            mask.observe(grads)
            now = chosen(mask)
            assert len(now) == mask.count == count
            if epoch % every or step:
                assert now == live
                continue
            dr = rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
            kept = int(count * (1 - dr))
            assert live & now == set(sorted(live, key=size.get)[count - kept :])
            assert now - live <= dead
            assert len(now - live) == count - kept > 0


def test_dynamic_grows_at_random_over_the_dead():
    net, hits = small_net(), torch.zeros(TOTAL)
    for seed in range(300):
        mask = dynamic(net, sparsity=1 - 40 / TOTAL, epochs=10, drop_rate=1.0, seed=seed)
        live = mask.flat
        mask.begin_epoch(0, no_sample)
        mask.observe([torch.ones(e.count) for e in mask.entries])
        assert not set(live.tolist()) & chosen(mask)
        hits[mask.flat] += 1
    expected = 300 * 40 / TOTAL
    statistic = ((hits - expected) ** 2 / (expected * (1 - 40 / TOTAL))).sum()
    assert abs(statistic - (TOTAL - 1)) < 4 * math.sqrt(2 * (TOTAL - 1))


# --- continuing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fixed", "redrawn", "fisher", "dynamic"])
@pytest.mark.parametrize("stop", [(0, False), (2, True), (2, False), (3, True)])
def test_a_mask_continues_from_its_state(kind, stop):
    """Stopped at the end of an epoch, or between `begin_epoch` and the update it announced."""

    def make(seed):
        net = small_net(seed=0)
        size = {"sparsity": 1 - 40 / TOTAL}
        return {
            "fixed": lambda: random(net, count=40, seed=seed),
            "redrawn": lambda: random(net, count=40, seed=seed, redraw=True),
            "fisher": lambda: fisher(net, samples=5, every=2, **size),
            "dynamic": lambda: dynamic(net, epochs=6, every=2, seed=seed, **size),
        }[kind]()

    def sample(n):
        return small_batch(n=n, seed=epoch)

    def observe(mask):
        draw = torch.Generator().manual_seed(epoch)
        mask.observe([torch.randn(e.count, generator=draw) for e in mask.entries])

    ours, other, path, state = make(1), make(99), [], None
    for epoch in range(6):
        ours.begin_epoch(epoch, sample)
        for after in (False, True):
            if after:
                observe(ours)
            if (epoch, after) == stop:
                state = copy.deepcopy(ours.state_dict())
            path.append(ours.flat)
    other.load_state_dict(state)
    for epoch in range(stop[0], 6):
        for after in (False, True):
            if (epoch, after) > stop:
                if after:
                    observe(other)
                else:
                    other.begin_epoch(epoch, sample)
            if (epoch, after) >= stop:
                assert torch.equal(other.flat, path[2 * epoch + after])


def test_ssam_f_without_scores_is_refused():
    """It would perturb the model's first weights, which nobody chose."""
    net, (x, y) = small_net(), small_batch()
    mask = fisher(net, sparsity=0.9)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    step = Perturbation(L2(), 0.1, mask)
    with pytest.raises(ConfigError, match=r"no scores yet: call mask\.begin_epoch") as caught:
        sam_step(closure_of(net, x, y), optimizer, step)
    one_line(caught)
    mask.begin_epoch(0, lambda n: small_batch(n=n))
    sam_step(closure_of(net, x, y), optimizer, step)
    again = fisher(net, sparsity=0.9)
    again.load_state_dict(mask.state_dict())
    sam_step(closure_of(net, x, y), optimizer, Perturbation(L2(), 0.1, again))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_mask_and_state_made_before_the_model_is_moved_follow_it():
    """As in Lightning, which moves the model after it was made and its checkpoint loaded."""
    net, (x, y) = small_net(), small_batch()
    step = Perturbation(L2(), 0.1, random(net, sparsity=0.5), source=source.Last())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sam_step(closure_of(net, x, y), optimizer, step)
    state = copy.deepcopy(step.state_dict())
    other = small_net()
    resumed = Perturbation(L2(), 0.1, random(other, sparsity=0.5), source=source.Last())
    resumed.load_state_dict(state)
    for moved, ball in ((net, step), (other, resumed)):
        moved.cuda()
        sam_step(
            closure_of(moved, x.cuda(), y.cuda()), torch.optim.SGD(moved.parameters(), lr=0.1), ball
        )
