"""The second pass starts where the perturbation does, and nothing changes by it."""

import copy
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath, EvoNorm2dB0, PatchDropout
from torchvision.ops import StochasticDepth

from samlib import masks, models
from samlib.sam import step
from samlib.sam.geometry import L2, ElementwiseLinf
from samlib.sam.masks import sparse
from samlib.sam.reuse import untouched_stages
from samlib.sam.step import Perturbation, perturbed, sam_step


@contextmanager
def nothing_kept(*arguments, **keywords):
    yield None


def batch(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(6, 1, 8, 8, generator=draw), torch.randint(10, (6,), generator=draw)


def train_a_little(name, stages, **options):
    torch.manual_seed(0)
    model = models.build(name, num_classes=10, in_channels=1, image_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    mask = masks.blocks(model, stages)
    geometry = options.pop("geometry", L2())
    perturbation = Perturbation(geometry, 0.5, mask, **options)
    losses = []
    for seed in range(3):
        x, y = batch(seed)
        losses.append(
            sam_step(lambda x=x, y=y: F.cross_entropy(model(x), y), optimizer, perturbation)
        )
    return losses, model.state_dict()


NAMES = ("wrn10_1", "resnet8", "resnext11_4x2d", "vit_micro")
STAGES = ([1], [2], [3], [2, 3])
OPTIONS = ({}, {"batchnorm": "first"}, {"radius_over": "all"}, {"geometry": ElementwiseLinf()})


# A Latin square: every network with every stage and every option, and those with each other.
@pytest.mark.parametrize(
    ("name", "stages", "options"),
    [(NAMES[i], STAGES[j], OPTIONS[(i + j) % 4]) for i in range(4) for j in range(4)],
    ids=str,
)
def test_the_step_is_the_same_bit_for_bit(name, stages, options, monkeypatch):
    losses, state = train_a_little(name, stages, **options)
    monkeypatch.setattr(step, "reuse", nothing_kept)
    plain_losses, plain_state = train_a_little(name, stages, **options)
    assert all(torch.equal(a, b) for a, b in zip(losses, plain_losses, strict=True))
    for key, value in plain_state.items():  # weights, running statistics and their counters
        assert torch.equal(state[key], value), key


def stem_runs(model, mask, again=lambda x: x):
    """How often the first convolution runs in a step whose second pass sees `again(x)`."""
    x, y = batch()
    runs = []
    hook = model.conv1.register_forward_hook(lambda *_: runs.append(1))
    with perturbed(lambda: F.cross_entropy(model(x), y), Perturbation(L2(), 0.1, mask)):
        F.cross_entropy(model(again(x)), y).backward()
    hook.remove()
    return len(runs)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return models.build("wrn10_1", num_classes=10, in_channels=1)


def test_the_prefix_runs_once(model):
    assert stem_runs(model, masks.blocks(model, [2, 3])) == 1
    assert stem_runs(model, masks.blocks(model, [1])) == 2
    assert stem_runs(model, masks.only_norm(model)) == 2


def test_another_input_in_the_second_pass_is_computed_anew(model):
    mask = masks.blocks(model, [3])
    assert stem_runs(model, mask, again=torch.clone) == 2
    assert stem_runs(model, mask, again=lambda x: x.mul_(1.0)) == 2, "changed in place"


@pytest.mark.parametrize(("gradient", "training"), [(False, True), (True, False)])
def test_a_call_in_another_mode_is_computed_anew(gradient, training, model, monkeypatch):
    """The closure's first call alone looks at the model beside its loss, as one that logs may."""
    x, y = batch()

    def gradients(model):
        perturbation, calls = Perturbation(L2(), 0.1, masks.blocks(model, [3])), []

        def closure():
            if not calls:
                with torch.set_grad_enabled(gradient):
                    calls.append(model.train(training)(x))
            return F.cross_entropy(model.train()(x), y)

        sam_step(closure, torch.optim.SGD(model.parameters(), lr=0.0), perturbation)
        return [p.grad for p in model.parameters()]

    plain = copy.deepcopy(model)
    got = gradients(model)
    assert all(g is not None for g in got)
    monkeypatch.setattr(step, "reuse", nothing_kept)
    assert all(map(torch.equal, got, gradients(plain)))


def written_first(model):
    """As DistributedDataParallel does, writes every buffer before a forward pass."""

    def write(module, inputs):
        for b in module.buffers():
            b.copy_(b.clone())

    model.register_forward_pre_hook(write)
    return model


def compiled(model):
    return torch.compile(model, backend="aot_eager")


def compiled_in_place(model):
    model.compile(backend="aot_eager")
    return model


@pytest.mark.parametrize("wrap", [written_first, compiled, compiled_in_place])
@pytest.mark.parametrize("batchnorm", ["both", "first"])
def test_a_wrapped_model_steps_as_the_model_does(wrap, batchnorm):
    trained = []
    for how in (wrap, lambda model: model):
        torch.compiler.reset()
        torch.manual_seed(0)
        model = models.build("resnet8", num_classes=10, in_channels=1)
        perturbation = Perturbation(L2(), 0.5, masks.blocks(model, [3]), batchnorm=batchnorm)
        optimizer, call = torch.optim.SGD(model.parameters(), lr=0.1), how(model)
        for seed in range(2):
            x, y = batch(seed)
            sam_step(lambda f=call, x=x, y=y: F.cross_entropy(f(x), y), optimizer, perturbation)
        trained.append(model.state_dict())
    for key, value in trained[1].items():
        torch.testing.assert_close(trained[0][key], value)


def test_statistics_of_every_kind_follow_both_passes(monkeypatch):
    def trained():
        torch.manual_seed(0)
        model = models.build("resnet8", num_classes=10, in_channels=1)
        model.norm1 = EvoNorm2dB0(16)  # a running variance without a mean
        (x, y), mask = batch(), masks.blocks(model, [3])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sam_step(lambda: F.cross_entropy(model(x), y), optimizer, Perturbation(L2(), 0.1, mask))
        return model.norm1.running_var

    kept = trained()
    monkeypatch.setattr(step, "reuse", nothing_kept)
    assert torch.equal(kept, trained())


def test_a_mask_that_may_move_keeps_nothing(model):
    mask = sparse.random(model, count=1, seed=0)
    assert mask.untouched == 0


@pytest.mark.parametrize(
    ("module", "runs"),
    [
        (torch.nn.Dropout(0.5), 2),
        (torch.nn.Dropout(0.0), 1),
        (torch.nn.RReLU(), 2),
        (DropPath(0.1), 2),
        (StochasticDepth(0.1, "row"), 2),
        (torch.nn.FractionalMaxPool2d(2, output_ratio=0.9), 2),
    ],
    ids=str,
)
def test_a_random_prefix_draws_anew(model, module, runs):
    model.layer1.append(module)
    assert stem_runs(model, masks.blocks(model, [3])) == runs


def test_the_first_touched_stage_is_found(model):
    for stage in (1, 2, 3):
        parameters = list(model.stages[stage - 1].parameters())
        assert untouched_stages(model, parameters) == stage - 1
    assert untouched_stages(model, [model.conv1.weight]) == 0
    assert untouched_stages(torch.nn.Linear(2, 2), []) == 0


def test_a_layer_shared_by_two_stages_counts_where_it_comes_first():
    model = models.build("vit_micro", num_classes=10, in_channels=1, image_size=8)
    first, *_, last = model.stages
    shared = next(m for m in first.modules() if isinstance(m, torch.nn.LayerNorm))
    name = next(n for n, m in last.named_modules() if isinstance(m, torch.nn.LayerNorm))
    parent, _, leaf = name.rpartition(".")
    setattr(last.get_submodule(parent), leaf, shared)
    assert untouched_stages(model, list(shared.parameters())) == 0


def test_a_layer_shared_with_the_stem_counts_as_in_front(model):
    model.stem_norm = model.layer2[0].norm1
    assert untouched_stages(model, list(model.stem_norm.parameters())) == 0


def test_patches_dropped_at_random_are_drawn_anew():
    model = models.build("vit_micro", num_classes=10, in_channels=1, image_size=8)
    model.patch_drop = PatchDropout(0.5)
    draws = []
    model.patch_drop.register_forward_hook(lambda *_: draws.append(1))
    x, y = batch()
    step = Perturbation(L2(), 0.1, masks.blocks(model, [3]))
    sam_step(lambda: F.cross_entropy(model(x), y), torch.optim.SGD(model.parameters(), 0.1), step)
    assert len(draws) == 2


def gradients_of_two_passes(model, closure, monkeypatch=None):
    """With what the first pass computed handed on, or, given `monkeypatch`, without."""
    if monkeypatch is not None:
        monkeypatch.setattr(step, "reuse", nothing_kept)
    ball = Perturbation(L2(), 0.1, masks.blocks(model, [3]))
    sam_step(lambda: closure(model), torch.optim.SGD(model.parameters(), lr=0.0), ball)
    return [*(p.grad for p in model.parameters()), *(b.double() for b in model.buffers())]


@pytest.mark.parametrize("kind", [torch.nn.SiLU, torch.nn.ReLU])
def test_what_a_stage_wrote_to_in_place_is_computed_anew(model, kind, monkeypatch):
    model.layer3.insert(0, kind(inplace=True))
    plain, (x, y) = copy.deepcopy(model), batch()

    def closure(model):
        return F.cross_entropy(model(x), y)

    got = gradients_of_two_passes(model, closure)
    assert all(map(torch.equal, got, gradients_of_two_passes(plain, closure, monkeypatch)))


class Shortcut(torch.nn.Module):
    """y = norm(x), and then x is added to y, or y to x, in place."""

    def __init__(self, channels):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(channels)

    def forward(self, x):
        y = self.norm(x)
        x += y
        return x


def test_a_norm_whose_input_was_written_to_follows_the_right_one(model, monkeypatch):
    model.layer1.insert(0, Shortcut(model.conv1.out_channels))
    plain, (x, y) = copy.deepcopy(model), batch()
    frozen = [model.conv1, model.layer1, plain.conv1, plain.layer1]
    for part in frozen:
        part.requires_grad_(False)

    def closure(model):
        return F.cross_entropy(model(x), y)

    def measured(model, *given):
        return [t for t in gradients_of_two_passes(model, closure, *given) if t is not None]

    assert all(map(torch.equal, measured(model), measured(plain, monkeypatch)))


def test_a_closure_that_differentiates_by_its_input_is_right(model, monkeypatch):
    """As the fast gradient sign method does: its graph is used up before the loss's."""
    plain, (x, y) = copy.deepcopy(model), batch()
    x.requires_grad_()

    def attacked(model):
        (by_input,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
        return F.cross_entropy(model(x), y) + F.cross_entropy(model(x + by_input.sign()), y)

    got = gradients_of_two_passes(model, attacked)
    assert all(map(torch.equal, got, gradients_of_two_passes(plain, attacked, monkeypatch)))


def test_an_exception_leaves_model_and_statistics_as_they_were(model):
    x, y = batch()
    mask = masks.blocks(model, [3])
    before = copy.deepcopy(model.state_dict())
    calls = []

    def closure():
        loss = F.cross_entropy(model(x), y)
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("second pass")
        return loss

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="second pass"):
        sam_step(closure, optimizer, Perturbation(L2(), 0.1, mask))
    assert model.memory is None
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_two_calls_in_one_closure_are_both_reused(model):
    mask = masks.blocks(model, [3])
    (a, ya), (b, yb) = batch(0), batch(1)
    runs = []
    model.conv1.register_forward_hook(lambda *_: runs.append(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sam_step(
        lambda: F.cross_entropy(model(a), ya) + F.cross_entropy(model(b), yb),
        optimizer,
        Perturbation(L2(), 0.1, mask),
    )
    assert len(runs) == 2
