import dataclasses
from itertools import chain

import pytest
import torch
from conftest import one_line
from torch import nn

from samlib import bench
from samlib.__main__ import main
from samlib.bench import epoch, limits, plain_loop, timing
from samlib.errors import ConfigError
from samlib.provenance import tf32
from samlib.records import store

CPU = torch.device("cpu")
# Python 3.12 and later warn of the loader's forked processes; they call nothing threads hold.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def small(augment="none", **changes):
    setting = epoch.Setting(**{"model": "resnet8", "batch_size": 4, "augment": augment} | changes)
    return setting.config


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """A record of a small network with a short last batch, and where it was written."""
    setting = epoch.Setting(model="resnet8", batch_size=4, images=6, rounds=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(limits.SIZES, "cpu", (16, 32))
        return bench.run(epoch, setting, tmp_path_factory.mktemp("results"))


def test_an_epoch_is_timed_against_the_plain_loop_and_recorded(timed):
    record, path = timed
    assert path.name == "epoch-resnet8-32px-batch4-autoaugment-fp32-cpu.json"
    assert timing.read(path.parent.parent, "epoch") == [store.read_one(path)]
    assert record["images"] == 6
    assert record["provenance"]["replayed"] is False
    assert record["network"]["augment"] == "autoaugment"
    assert list(record["ratios"]) == list(record["seconds"]) == list(epoch.CONTENDERS)
    assert record["ratios"]["ours"] == [1.0] * 3
    assert all(low > 0 for low, _, _ in record["ratios"].values())
    assert record["matrix_rate"]["size"] in (16, 32)
    assert record["utilisation"][1] > 0
    text = epoch.table(record)
    assert all(name in text for name in (*epoch.CONTENDERS, "augmentation", "steps", "rest"))


def test_ratios_parts_and_utilisation_follow_from_the_times():
    took = {
        "ours": [2.0, 4.0],
        "ours again": [2.0, 6.0],
        "plain loop": [10.0, 12.0],
        "augmentation": [0.5, 0.5],
        "steps": [1.0, 3.0],
    }
    found = epoch.summary(took, images=60, batch_size=20, operations=50, rate=100.0)
    assert found["ratios"]["plain loop"] == [3.5, 4.0, 4.5]
    assert found["ratios"]["ours again"] == [1.125, 1.25, 1.375]
    assert found["seconds"]["ours"] == [2.5, 3.0, 3.5]
    assert found["images_per_second"]["ours"] == 20
    assert found["parts"]["rest"] == [0.5] * 3
    assert list(found["ratios"]) == list(epoch.CONTENDERS)
    # three steps of 50 operations in 2 or 4 seconds, of 100 a second
    assert found["utilisation"] == pytest.approx([0.46875, 0.5625, 0.65625])


def test_on_a_gpu_the_plain_loop_is_timed_with_tf32_and_without():
    took = {name: [1.0] for name in (*epoch.CONTENDERS, "augmentation", "steps")}
    took |= {"plain loop": [2.5], epoch.WITHOUT_TF32: [6.0]}
    found = epoch.summary(took, images=60, batch_size=20, operations=50, rate=100.0)
    assert found["ratios"]["plain loop"] == [2.5] * 3
    assert found["ratios"]["plain loop without TF32"] == [6.0] * 3


def test_without_tf32_is_without_tf32(monkeypatch):
    seen = []
    monkeypatch.setattr(epoch, "plain_loop", lambda *_: lambda: seen.append(tf32()))
    monkeypatch.setattr(epoch, "random_run", lambda *_: timing.random_run(small(), CPU, 4))
    steps = epoch.contenders(small(), torch.device("cuda"), 4)
    assert list(steps) == [*epoch.CONTENDERS, epoch.WITHOUT_TF32]
    for name in list(steps)[2:]:
        steps[name]()
        steps[name]()
    assert [found["convolutions"] for found in seen] == [True, True, False, False]
    assert epoch.WITHOUT_TF32 not in epoch.contenders(small(), CPU, 4)


def test_the_rate_is_that_of_the_fastest_size():
    took = {10: [1.0, 2.0, 9.0], 20: [5.0, 4.0, 3.0], 30: [60.0] * 3}
    size, rate = limits.matrix_rate(took)
    assert (size, rate) == (20, 2 * 20**3 * limits._PRODUCTS / 4.0)


@pytest.mark.parametrize("model", ["resnet8", "resnext11_4x2d", "vit_t"])
def test_operations_are_those_of_the_layers(model):
    run = timing.random_run(small(model=model), CPU, 4)
    forward, free = [], []

    def count(layer, given, out):
        if isinstance(layer, nn.Conv2d):
            each = layer.weight[0].numel()
        else:
            each = layer.in_features
        forward.append(2 * each * out.numel())
        if not given[0].requires_grad:  # pixels need no gradient
            free.append(forward[-1])

    for layer in run.model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    closure = timing.closure_of(run)
    counted = limits.operations(lambda: closure().backward())
    attention = 0
    if model == "vit_t":  # two products, 65 x 65 for each of 3 heads of 64, in each of 12 blocks
        attention = 12 * 2 * 2 * 4 * 3 * 65 * 65 * 64
    assert counted == 3 * (sum(forward) + attention) - sum(free)


def test_steps_alone_train_on_as_many_images_without_augmentation():
    calls = epoch.pieces(small("autoaugment"), CPU, 10)
    run = calls["steps"].__self__
    batches = list(run.splits.train_batches("autoaugment", 4, run.order, run.draws))
    assert [len(y) for _, y in batches] == [4, 4, 2]
    assert all(torch.equal(x, run.splits.train_images[: len(x)]) for x, _ in batches)
    before = run.draws.get_state()
    calls["steps"]()
    assert torch.equal(before, run.draws.get_state()), "no draw of an augmentation"
    assert calls["augmentation"]().shape == (10, 3, 32, 32)


def test_the_plain_loop_computes_what_our_trainer_does(monkeypatch):
    # Before every epoch both shuffle by this, whatever their generators.
    monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n).flip(0))
    config = small().replace(lr=0.01, epochs=3)
    run = timing.random_run(config, CPU, 10)
    peer = plain_loop.plain_loop(config, run.splits, CPU)
    theirs = [peer() for _ in range(3)]
    for _ in range(3):
        run.train_epoch()
    assert [loss for loss, _ in theirs] == pytest.approx(run.curves["train_loss"], rel=1e-5)
    assert run.curves["train_loss"][2] < run.curves["train_loss"][0]


class Watched(nn.Module):
    """A linear model that keeps a pixel of every image it is given, by batch."""

    def __init__(self):
        super().__init__()
        self.head, self.seen = nn.Linear(3 * 32 * 32, 100), []

    def forward(self, x):
        self.seen.append(x[:, 0, 0, 0].tolist())
        return self.head(x.flatten(1))


def test_the_plain_loop_sees_every_image_once_in_an_order_drawn_anew(monkeypatch):
    model = Watched()
    monkeypatch.setattr(plain_loop, "build_model", lambda config: model)
    config = small()
    splits = timing.random_run(config, CPU, 10).splits
    splits.train_images[:, 0, 0, 0] = torch.arange(10, dtype=torch.uint8)
    train = plain_loop.plain_loop(config, splits, CPU)
    train(), train()
    assert [len(batch) for batch in model.seen] == [4, 4, 2] * 2
    info = splits.info
    orders = []
    for batches in (model.seen[:3], model.seen[3:]):
        pixel = torch.tensor([*chain(*batches)]) * info.std[0] + info.mean[0]
        orders.append((255 * pixel).round().int().tolist())
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] != orders[1]


def test_the_plain_loop_learns_what_can_be_told_apart():
    config = small("basic", batch_size=8).replace(lr=0.05)
    splits = timing.random_run(config, CPU, 16).splits
    labels = torch.arange(16) % 2
    images = torch.zeros_like(splits.train_images)
    images[labels == 1] = 255
    train = plain_loop.plain_loop(
        config, dataclasses.replace(splits, train_images=images, train_labels=labels), CPU
    )
    losses = [train()[0] for _ in range(4)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "resnet"},
        {"augment": "shift"},
        {"precision": "fp16"},
        {"images": 0},
        {"batch_size": -1},
        {"rounds": 0},
        {"threads": 0},
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ConfigError) as caught:
        epoch.Setting(**wrong)
    one_line(caught)


def test_what_is_not_given_depends_on_the_device():
    assert (epoch.Setting().count, epoch.Setting().config.precision) == (1024, "fp32")
    gpu = epoch.Setting(device="cuda:0")
    assert (gpu.count, gpu.config.precision) == (50_000, "bf16")
    given = epoch.Setting(device="cuda", images=7, precision="fp32")
    assert (given.count, given.config.precision) == (7, "fp32")


def test_the_command_line_refuses_what_an_epoch_does_not_take(capsys):
    assert main(["bench", "epoch", "--profile", "quick"]) == 2
    assert "valid: model, batch_size, images, precision" in capsys.readouterr().err
    assert main(["bench", "epoch", "--device", "cuda:x"]) == 2


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_an_epoch_is_timed_on_a_gpu(tmp_path):
    setting = epoch.Setting(model="resnet8", images=4000, rounds=2, device="cuda")
    record, path = bench.run(epoch, setting, tmp_path)
    assert path.stem.endswith("-bf16-cuda")
    assert timing.hardware(record) == torch.cuda.get_device_name()
    assert 0 < record["utilisation"][1] < 1
    assert record["provenance"]["replayed"] is True
    assert record["ratios"]["plain loop without TF32"][1] > 0
