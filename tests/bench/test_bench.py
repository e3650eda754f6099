import pytest
import torch

from samlib import bench, masks
from samlib.__main__ import main
from samlib.bench import limits, memory, networks, pieces, step, timing, whole_steps
from samlib.errors import ConfigError
from samlib.records import store
from samlib.study import profiles
from samlib.trainer.config import RunConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """A record of a small network, and where it was written."""
    setting = step.Setting(profile="quick", batch_size=2, rounds=2)
    return bench.run(step, setting, tmp_path_factory.mktemp("results"))


def test_contenders_are_timed_together_and_recorded(timed):
    record, path = timed
    assert store.read_one(path)["ratios"] == record["ratios"]
    assert timing.read(path.parent.parent, "step") == [store.read_one(path)]
    assert timing.read(path.parent.parent, "networks") == []
    assert record["ratios"]["base"] == [1.0, 1.0, 1.0]
    for name in ("base again", *step.MASKS):
        low, median, high = record["ratios"][name]
        assert 0 < low <= median <= high
        assert record["seconds"][name][0] > 0
    assert set(record["floors"]) == {"base", *step.MASKS, *step.ONE_PASS}
    for name in step.ONE_PASS:  # no pass but the one that descends
        assert record["floors"][name] == record["floors"]["base"] < record["floors"]["all"]
    assert "only_norm" in step.table(record)
    assert record["provenance"]["processor"] in timing.hardware(record)
    assert timing.hardware(record).endswith("1 thread")
    assert record["provenance"]["replayed"] is False
    assert record["peer"] is None
    assert not {"plain_seconds", "utilisation"} & record.keys(), "of a GPU"


def test_memory_is_every_allocation_and_every_free():
    held = []
    with memory.taken(CPU) as found:
        first = torch.ones(1000)  # 4,000 bytes
        second = torch.ones(500, dtype=torch.float64)  # 4,000: 8,000 at one time
        del first
        third = torch.ones(100)
        del third
        held.append(second)
    assert (found.net, found.peak) == (4000, 8000)
    with memory.taken(CPU) as found:
        pass
    assert (found.net, found.peak) == (0, 0)


def test_memory_counts_what_a_gradient_takes():
    weight = torch.ones(300, requires_grad=True)
    with memory.taken(CPU) as found:
        loss = weight.exp().sum()  # 1,200 bytes, kept for the backward pass, and 4
        loss.backward()
        del loss
    assert found.net == weight.grad.nbytes == 1200
    assert 2 * 1200 < found.peak < 4 * 1200


@pytest.mark.parametrize("problem", ["wrn", "vit"])
def test_a_step_keeps_what_it_perturbs_and_the_norm_buffers(problem):
    config = step.Setting(profile="quick", problem=problem).config
    with timing.threads(1):
        steps = whole_steps.whole_steps(config, CPU)
        found = whole_steps.memory(steps, CPU)
        few = {name: steps[name] for name in ("base", "only_norm")}
        again = whole_steps.memory(few, CPU)
    model = timing.random_run(config, CPU, 2).model
    everything = masks.MASKS["all"](model, config)
    assert found["parameters"] == 4 * everything.total
    buffers, loss = sum(b.nbytes for b in everything.norm_buffers), 4
    assert (buffers > 0) == (problem == "wrn")
    for name in step.MASKS:
        count = masks.MASKS[name](model, config).count
        assert found["between"][name] == 4 * count + buffers + loss
    if problem == "wrn":
        assert found["between"]["pytorch-optimizer's SAM"] == found["parameters"]
    assert found["between"].keys() == found["peak"].keys() - {"base", "base again", *step.ONE_PASS}
    assert found["peak"]["base"] == found["peak"]["base again"]
    assert found["peak"]["base"] > found["parameters"], "gradients, and activations"
    over = {name: peak - found["peak"]["base"] for name, peak in found["peak"].items()}
    assert 0 <= over["only_norm"] < over["all"] <= found["between"]["all"]
    assert again["peak"] == {name: found["peak"][name] for name in few}, "the same each time"


def test_the_memory_of_a_step_is_recorded_and_shown(timed):
    record, _ = timed
    assert set(record["memory"]["peak"]) == set(record["ratios"])
    assert "MB kept between passes" in step.table(record)
    older = {name: value for name, value in record.items() if name != "memory"}
    assert "MB" not in step.table(older)


def test_a_profiles_network_is_timed_on_its_own_data_size(timed):
    base = profiles.get("quick").bases["wrn"]
    assert timed[0]["network"] == timing.network(base) | {"batch_size": 2}
    assert timed[0]["network"]["image_size"] == 8
    config = step.Setting(profile="cifar100-10k", problem="vit-lion").config
    assert (config.model, config.optimizer, config.batch_size) == ("vit_mini", "lion", 128)
    assert step.name(config, CPU) == "step-vit_mini-32px-batch128-lion-bf16-cpu"
    zoo = step.Setting(model="resnet8").config
    assert timing.network(zoo)["image_size"] == 32
    assert step.name(zoo, CPU) == "step-resnet8-32px-batch32-cpu"


def test_a_floor_is_the_gradients_and_the_optimizer_less_what_is_reused():
    took = {
        "forward and backward": [10.0, 20.0],
        "optimizer": [1.0, 2.0],
        "gradient of only_norm": [7.0, 14.0],
        "gradient of blocks_3": [4.0, 8.0],
        "reused by blocks_3": [2.0, 4.0],
    }
    assert pieces.floor(took, None) == [11.0, 22.0]
    assert pieces.floor(took, "only_norm") == [18.0, 36.0]
    assert pieces.floor(took, "blocks_3") == [13.0, 26.0]


@pytest.mark.parametrize("problem", ["wrn", "vit"])
def test_pieces_leave_the_network_as_it_is(problem):
    config = step.Setting(profile="quick", problem=problem, batch_size=2).config
    runs = []

    def remembered(*arguments):
        runs.append(timing.random_run(*arguments))
        return runs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "random_run", remembered)
        alone = pieces.pieces(config, CPU)
    before = [p.detach().clone() for p in runs[0].model.parameters()]
    stepped = next(runs[1].model.parameters()).detach().clone()
    for name, call in [*alone.items()] * 2:  # the second time with gradients that are there
        call()
        same = all(map(torch.equal, before, runs[0].model.parameters()))
        assert same, f"{name} moved a weight"
    assert not torch.equal(stepped, next(runs[1].model.parameters())), "the optimizer does step"
    late = {name for name in alone if name.startswith("reused by ")}
    assert late == {f"reused by blocks_{stages}" for stages in ("2", "3", "23")}


def test_a_perturbation_alone_moves_weights_by_rho_and_puts_them_back():
    config = step.Setting(profile="quick", batch_size=2).config
    seen = []

    def watched(closure, perturbation):
        return bench_perturbed(closure, perturbation, on_ascent=lambda a: seen.append(a.eps))

    bench_perturbed = pieces.perturbed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "perturbed", watched)
        pieces.pieces(config, CPU)["perturb only_norm"]()
    length = torch.stack([eps.square().sum() for eps in seen[0]]).sum().sqrt()
    assert length == pytest.approx(0.1)


def test_a_peer_that_is_not_there_is_said(timed, monkeypatch):
    monkeypatch.setattr(whole_steps, "find_spec", lambda name: None)
    config = step.Setting(profile="quick", batch_size=2).config
    reason = whole_steps.missing_peer(config)
    assert reason == "not installed: pip install pytorch-optimizer"
    assert whole_steps.PEER not in whole_steps.whole_steps(config, CPU)
    record = timed[0] | {"peer": reason}
    assert f"{whole_steps.PEER}  {reason}" in step.table(record)
    lion = step.Setting(profile="cifar100-10k", problem="vit-lion").config
    assert whole_steps.missing_peer(lion) == "timed over SGD, not lion"


def test_what_is_timed_on_a_gpu_is_replayed_and_beside_it_plain(tmp_path, monkeypatch):
    """All but the peer, which must not be recorded: a recording that fails ends all others."""
    replayed = []

    def as_trained(call, device):
        replayed.append(call)
        return call

    monkeypatch.setattr(step, "on_gpu", lambda device: True)
    monkeypatch.setattr(step, "as_trained", as_trained)
    monkeypatch.setitem(limits.SIZES, "cpu", (16, 32))
    record, _ = bench.run(step, step.Setting(model="resnet8", batch_size=2, rounds=2), tmp_path)
    names = list(record["ratios"])
    assert whole_steps.PEER in names
    assert len(replayed) == len(names) - 1 + len(record["pieces"])
    assert list(record["plain_seconds"]) == names
    assert list(record["seconds"]) == list(record["utilisation"]) == names[:-1]
    assert record["matrix_rate"]["size"] in (16, 32)
    counted = record["operations"]
    assert counted["base"] < counted["only_norm"] < counted["all"] < 2.01 * counted["base"]
    assert counted["all"] == counted[whole_steps.PEER] == 2 * counted["base"]
    assert {counted[name] for name in step.ONE_PASS} == {counted["base"]}
    text = step.table(record)
    assert "ms from Python" in text
    assert "% of the matrix rate" in text
    assert "Tflop/s fp32" in text


def test_ratios_are_among_steps_that_run_alike():
    took = {"base": [1.0], "all": [2.0], "plain base": [4.0], "plain peer": [10.0]}
    assert step.ratio(took, "all") == [2.0] * 3
    assert step.ratio(took, "peer") == [2.5] * 3


def test_the_share_of_the_matrix_rate_is_that_of_each_steps_operations(monkeypatch):
    steps = {"base": whole_steps.WholeStep(None, "base"), "all": whole_steps.WholeStep(None, "all")}
    monkeypatch.setattr(step, "operations", {"base": 100, "all": 300}.get)
    took = {"base": [2.0], "all": [5.0], "plain base": [3.0], "plain all": [7.0]}
    took["products of 10"] = [80.0]  # four products of 2,000 operations: 100 a second
    found = step.limited(took, steps, [10])
    assert found["matrix_rate"] == {"size": 10, "operations_per_second": 100.0}
    assert found["utilisation"] == {"base": [0.5] * 3, "all": [0.6] * 3}
    assert found["plain_seconds"] == {"base": [3.0] * 3, "all": [7.0] * 3}


def test_precision_is_the_profiles_or_the_devices():
    assert step.Setting(model="resnet8").config.precision == "fp32"
    assert step.Setting(model="resnet8", device="cuda").config.precision == "bf16"
    assert step.Setting(profile="quick", device="cuda").config.precision == "fp32"
    assert step.Setting(profile="quick", precision="bf16").config.precision == "bf16"


def test_short_calls_follow_each_other_on_a_gpu(monkeypatch):
    """What is timed must not be the wait for one of them."""
    monkeypatch.setattr(timing, "seconds", lambda call, device, times=1: 0.003)
    called = []
    assert timing.warmed(lambda: called.append(0), torch.device("cuda")) == 4
    assert len(called) == 2, "once plain and once to be recorded"
    assert timing.warmed(lambda: called.append(0), CPU) == 1
    assert len(called) == 3
    monkeypatch.undo()
    monkeypatch.setattr(timing.time, "perf_counter", iter((10.0, 16.0)).__next__)
    assert timing.seconds(lambda: called.append(0), CPU, times=3) == 2.0
    assert len(called) == 6


def test_a_gpu_is_waited_for_by_its_number(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    timing.seconds(lambda: None, torch.device("cuda", 1))
    assert waited == [torch.device("cuda", 1)] * 2


def test_a_network_is_timed_as_it_trains_on_a_gpu(monkeypatch):
    """Not by an epoch of one batch, which is too short to be replayed."""
    recorded = []

    def as_trained(call, device):
        recorded.append(device)
        return call

    monkeypatch.setattr(networks, "as_trained", as_trained)
    run = timing.random_run(profiles.get("quick").bases["wrn"].replace(batch_size=2), CPU, 2)
    assert networks._step(run) == run.train_epoch
    run.device = torch.device("meta")
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: torch.ones(2))
    networks._step(run)
    assert recorded == [torch.device("meta")]


def test_contenders_take_turns(monkeypatch):
    called = []
    steps = {name: lambda name=name: called.append(name) for name in "abcd"}
    took = timing.interleaved(steps, 3, CPU)
    assert {name: len(found) for name, found in took.items()} == dict.fromkeys("abcd", 3)
    rounds = ["".join(called[i : i + 4]) for i in range(8, len(called), 4)]
    assert all(sorted(found) == list("abcd") for found in rounds)
    assert len(set(rounds)) > 1, "in an order drawn anew"


def test_a_random_run_trains_as_configured():
    base = profiles.get("cifar100-10k").bases["vit-lion"]
    run = timing.random_run(base, CPU, 4)
    assert run.splits.train_images.shape == (4, 3, 32, 32)
    assert type(run.optimizer).__name__ == "Lion"
    assert timing.closure_of(run)().requires_grad


def test_every_network_of_every_profile_is_timed_once():
    found = [networks.identity(base) for base in networks.networks()]
    assert len(found) == len({tuple(f.values()) for f in found})
    for profile in ("quick", "cifar100-short", "paper", "imagenet"):
        for base in profiles.get(profile).bases.values():
            assert networks.identity(base) in found


def timed_as(monkeypatch, took, base):
    """The record of a network whose every step takes so many seconds."""

    def seconds(call, device, times=1):
        call()
        return took

    monkeypatch.setattr(networks, "seconds", seconds)
    return networks.measure(networks.Setting(rounds=2), [base])


def test_a_long_step_is_scaled_from_a_smaller_batch(monkeypatch):
    base = RunConfig(dataset="cifar100", model="resnet8", batch_size=64)
    record = timed_as(monkeypatch, 1.0, base)
    assert record["run_id"] == "networks-cpu"
    (entry,) = record["networks"]
    assert entry["network"] == networks.identity(base)
    assert entry["timed_batch"] == 16
    assert entry["seconds"] == {"step": [4.0] * 3, "evaluation": [4.0] * 3}
    assert "from 16" in networks.table(record)


@pytest.mark.parametrize(
    "base",
    [
        RunConfig(dataset="cifar100", model="resnet8", batch_size=64),
        profiles.get("quick").bases["wrn"],
    ],
)
def test_a_short_step_is_timed_on_the_real_batch(monkeypatch, base):
    record = timed_as(monkeypatch, 0.3, base)
    (entry,) = record["networks"]
    assert entry["timed_batch"] == 64
    assert entry["seconds"] == {"step": [0.3] * 3, "evaluation": [0.3] * 3}
    assert "from" not in networks.table(record)


def test_images_in_folders_are_timed_without_being_read(monkeypatch):
    monkeypatch.setattr(networks, "seconds", lambda *_: 1.0)  # only the warm-up runs
    base = profiles.get("imagenet").bases["resnet"].replace(model="resnet8", batch_size=2)
    assert base.augment == "inception"
    entry = networks._timed(base, CPU, 1)
    assert entry["network"]["augment"] == "inception"
    assert entry["network"]["image_size"] == 224


def test_short_steps_are_timed_for_half_a_second(monkeypatch):
    calls = []

    def quick(call, device, times):
        calls.append(call)
        return 0.1

    monkeypatch.setattr(networks, "seconds", quick)
    networks._timed(profiles.get("quick").bases["wrn"].replace(batch_size=2), CPU, 2)
    assert len(calls) == 2 * 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "resnet"},
        {"precision": "fp16"},
        {"rounds": 0},
        {"batch_size": -1},
        {"profile": "quik"},
        {"profile": "quick", "problem": "resnet56"},
        {"profile": "quick", "model": "resnet8"},
        {"problem": "wrn"},
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        step.Setting(**wrong)


def test_the_command_line_says_which_flags_a_bench_takes(capsys):
    assert main(["bench", "networks", "--model", "resnet8"]) == 2
    assert "valid: rounds, device, threads" in capsys.readouterr().err
    assert main(["bench", "step", "--device", "cuda:x"]) == 2


def test_the_command_line_times_and_prints(tmp_path, capsys):
    arguments = ["--profile", "quick", "--batch-size", "2", "--rounds", "1"]
    assert main(["bench", "step", *arguments, "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    path = tmp_path / "bench" / "step-wrn10_1-8px-batch2-cpu.json"
    assert said.endswith(f"{path}\n")
    assert store.read_one(path)["setting"]["rounds"] == 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_steps_are_timed_on_a_gpu(tmp_path):
    record, _ = bench.run(step, step.Setting(model="resnet8", rounds=2, device="cuda"), tmp_path)
    assert record["provenance"]["replayed"] is True
    assert record["plain_seconds"]["all"][1] > record["seconds"]["all"][1]
    assert timing.hardware(record) == torch.cuda.get_device_name()
    assert record["run_id"].endswith("-cuda")
    kept = record["memory"]["between"]
    assert 0 < kept["only_norm"] < kept["all"]
    assert kept["all"] >= record["memory"]["parameters"]
    assert record["memory"]["peak"]["base"] > 0
