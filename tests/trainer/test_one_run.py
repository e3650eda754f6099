"""Runs: they repeat, continue after an interruption, are paired by seed, and say when they fail."""

import json
import math
from contextlib import contextmanager

import pytest
import torch
from conftest import identical, one_line, repeatable, snapshot

from samlib.data.splits import make_splits
from samlib.errors import ConfigError, DataMissing
from samlib.trainer import checkpoint, one_run
from samlib.trainer.build import build_model, continue_optimizer
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import train, usable_device

TINY = {"train_size": 80, "validation_size": 40, "epochs": 3, "batch_size": 32, "lr": 0.05}
SAM = {"geometry": "l2", "rho": 0.1}
METHODS = {
    "sgd": {},
    "sam on norms": SAM | {"mask": "only_norm"},
    "adamw, all normed": SAM
    | {"optimizer": "adamw", "lr": 1e-3, "mask": "no_norm", "radius_over": "all"},
    "lion on a vit": SAM | {"optimizer": "lion", "lr": 1e-4, "model": "vit_micro"},
    "dynamic": SAM | {"mask": "dynamic", "mask_every": 1, "sparsity": 0.9},
    "redrawn": SAM | {"mask": "random_redrawn", "geometry": "elementwise_l2"},
    "fisher": SAM | {"mask": "fisher", "mask_samples": 16, "mask_every": 2, "sparsity": 0.9},
    "augmented, noisy": {"augment": "shift", "label_noise": 0.3, "model": "resnet8"},
    "some epochs": SAM | {"start": 1, "end": 2, "batchnorm": "first", "eval_every": 2},
}
few_tested = pytest.mark.usefixtures("few_tested")
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def tiny(**changes):
    return RunConfig(**TINY | changes)


class Stop(Exception):
    pass


def stop_after(epochs):
    def on_epoch(run):
        if run.epoch == epochs:
            raise Stop

    return on_epoch


def interrupted(config, path, epochs):
    with pytest.raises(Stop):
        train(config, checkpoints=path, checkpoint_seconds=0, on_epoch=stop_after(epochs))


# --- repeating -----------------------------------------------------------------------------------


@every_method
@few_tested
def test_a_run_repeats_whatever_surrounds_it(method):
    config, results = tiny(**method), []
    threads = torch.get_num_threads()
    try:
        for seed, count in ((1, 1), (2, 2)):
            torch.manual_seed(seed)
            torch.set_num_threads(count)
            before = torch.get_rng_state()
            results.append(train(config))
            assert torch.get_num_threads() == count
            assert torch.equal(torch.get_rng_state(), before)
    finally:
        torch.set_num_threads(threads)
    assert repeatable(results[0]) == repeatable(results[1])
    assert results[0]["status"] == "completed"


def test_threads_and_random_state_come_back_after_an_error():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(Stop):
            train(tiny(), on_epoch=stop_after(1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_uses_one_thread():
    threads, during = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        train(tiny(epochs=1), on_epoch=lambda run: during.append(torch.get_num_threads()))
    finally:
        torch.set_num_threads(threads)
    assert during == [1]


def test_a_run_on_a_gpu_uses_one_thread_and_gives_its_random_state_back(monkeypatch):
    forked = []

    @contextmanager
    def fork(devices):
        forked.append(devices)
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork)
    threads, tried = torch.get_num_threads(), torch.backends.cudnn.benchmark
    gpu = torch.device("cuda")
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    try:
        with one_run._deterministic(gpu, seed=0):
            assert torch.get_num_threads() == 1
            assert torch.backends.cudnn.benchmark
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    assert forked == [[gpu]]
    assert torch.backends.cudnn.benchmark is tried


def test_convolutions_of_an_evaluation_are_not_searched():
    """Its last batches have sizes of their own, each of which would be searched anew."""
    seen = []

    def on_epoch(run):
        torch.backends.cudnn.benchmark = True
        forward = run.forward
        run.forward = lambda x: seen.append(torch.backends.cudnn.benchmark) or forward(x)
        run.accuracy_on("test")
        seen.append(torch.backends.cudnn.benchmark)
        run.forward = forward

    train(tiny(epochs=1), on_epoch=on_epoch)
    assert seen == [False, True]


@few_tested
def test_another_seed_is_another_run():
    first, second = (train(tiny(seed=seed)) for seed in (0, 1))
    assert first["curves"]["train_loss"] != second["curves"]["train_loss"]


# --- continuing ----------------------------------------------------------------------------------


@every_method
@few_tested
def test_a_resumed_run_ends_as_an_uninterrupted_one(method, tmp_path):
    config, path = tiny(**method), tmp_path / "run.pt"
    whole, ours, theirs = train(config, weights=tmp_path / "whole"), [], tmp_path / "resumed"
    interrupted(config, path, 2)  # the end of epoch 1 is on disk
    resumed = train(
        config, checkpoints=path, weights=theirs, on_epoch=lambda run: ours.append(run.epoch)
    )
    assert ours == [2, 3]
    assert repeatable(resumed) == repeatable(whole)
    assert identical(checkpoint.load(theirs), checkpoint.load(tmp_path / "whole"))


@few_tested
def test_a_run_interrupted_twice_ends_as_an_uninterrupted_one(tmp_path):
    config = tiny(**METHODS["dynamic"], augment="shift")
    for epochs in (2, 3):
        interrupted(config, tmp_path / "run.pt", epochs)
    assert repeatable(train(config, checkpoints=tmp_path / "run.pt")) == repeatable(train(config))


def test_a_checkpoint_holds_the_random_state_of_the_device(monkeypatch):
    """For networks that draw there; none of the zoo does."""
    runs, given = [], []
    train(tiny(epochs=1), on_epoch=runs.append)
    (run,) = runs
    assert run.state_dict()["on_device"] is None
    run.load_state_dict(run.state_dict())
    run.device = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: f"state of {device}")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *state: given.append(state))
    state = run.state_dict()
    assert state["on_device"] == "state of cuda:1"
    run.load_state_dict(state)
    run.load_state_dict(state | {"on_device": None})  # written on a CPU
    assert given == [("state of cuda:1", torch.device("cuda", 1))]


@few_tested
def test_a_checkpoint_from_a_gpu_is_continued_on_the_cpu(tmp_path):
    config, path = tiny(**METHODS["adamw, all normed"]), tmp_path / "run.pt"
    interrupted(config, path, 2)
    state = checkpoint.load(path)
    for group in state["optimizer"]["param_groups"]:
        group["capturable"] = True
    checkpoint.save(path, state)
    assert repeatable(train(config, checkpoints=path)) == repeatable(train(config))


def test_adamws_count_of_steps_goes_where_the_new_device_wants_it():
    """From the CPU, which counts on the host, to where a recorded step counts."""
    state = stepped(capturable=False).state_dict()
    there = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2, device="meta"))], capturable=True)
    continue_optimizer(there, state)
    (found,) = there.state.values()
    assert {name: value.device.type for name, value in found.items()} == {
        "step": "meta",
        "exp_avg": "meta",
        "exp_avg_sq": "meta",
    }
    assert there.param_groups[0]["capturable"]
    assert not state["param_groups"][0]["capturable"]


def stepped(**options):
    """An AdamW after a step."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], **options)
    parameter.sum().backward()
    optimizer.step()
    return optimizer


@few_tested
def test_a_checkpoint_of_another_run_is_not_used(tmp_path):
    interrupted(tiny(seed=1), tmp_path / "run.pt", 3)
    result = train(tiny(seed=2), checkpoints=tmp_path / "run.pt")
    assert repeatable(result) == repeatable(train(tiny(seed=2)))


@few_tested
def test_a_checkpoint_of_other_code_is_named_and_not_used(tmp_path):
    path, epochs = tmp_path / "run.pt", []
    interrupted(tiny(), path, 3)
    checkpoint.save(path, checkpoint.load(path) | {"source": "0123456789abcdef"})
    with pytest.warns(UserWarning, match=r"of other code \(code 0123456789\) and is not used"):
        train(tiny(), checkpoints=path, on_epoch=lambda run: epochs.append(run.epoch))
    assert epochs == [1, 2, 3]


@few_tested
def test_a_run_that_began_elsewhere_names_every_place(tmp_path):
    path, gpu = (
        tmp_path / "run.pt",
        {"processor": "x86_64", "gpu": "NVIDIA H100", "torch": "2.11.0"},
    )
    interrupted(tiny(), path, 2)
    assert "resumed_from" not in train(tiny(), checkpoints=path)["provenance"]
    checkpoint.save(path, checkpoint.load(path) | {"places": [gpu]})
    result = train(tiny(), checkpoints=path)
    assert result["provenance"]["resumed_from"] == [gpu]
    assert result["provenance"]["gpu"] is None


@few_tested
def test_final_weights_leave_none_of_an_earlier_run_behind(tmp_path):
    weights = tmp_path / "run.pt"
    for seed in (1, 2):
        train(tiny(seed=seed), weights=weights)
    assert [*tmp_path.iterdir()] == [weights]


@few_tested
def test_a_damaged_checkpoint_costs_an_epoch_only(tmp_path):
    path, epochs = tmp_path / "run.pt", []
    interrupted(tiny(), path, 3)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="is damaged"):
        result = train(tiny(), checkpoints=path, on_epoch=lambda run: epochs.append(run.epoch))
    assert epochs == [2, 3]
    assert repeatable(result) == repeatable(train(tiny()))


def test_checkpoints_are_no_more_frequent_than_asked(tmp_path):
    train(tiny(), checkpoints=tmp_path / "run.pt", checkpoint_seconds=3600)
    assert list(tmp_path.iterdir()) == []


# --- what the result says ------------------------------------------------------------------------


def test_result_holds_what_a_record_needs():
    config = tiny(**SAM, mask="only_norm")
    result = train(config)
    assert result["run_id"] == config.run_id
    assert RunConfig.from_dict(result["config"]) == config
    assert (result["status"], result["diverged_epoch"]) == ("completed", None)
    curves = result["curves"]
    assert {len(curve) for curve in curves.values()} == {3}
    assert result["test_accuracy"] == curves["test_accuracy"][-1]
    assert result["best_test_accuracy"] == max(curves["test_accuracy"])
    assert result["validation_accuracy"] == curves["validation_accuracy"][-1]
    assert len(result["times"]["epochs"]) == 3
    assert sum(result["times"]["epochs"]) <= result["times"]["wall"]
    mask = result["mask"]
    model = build_model(config)
    assert mask["total"] == sum(p.numel() for p in model.parameters())
    assert 0 < mask["count"] < mask["total"]
    assert train(tiny())["mask"] is None
    # accuracies are percentages of the splits' sizes
    for name, size in (
        ("train_accuracy", 80),
        ("validation_accuracy", 40),
        ("test_accuracy", 1677),
    ):
        hits = [accuracy * size / 100 for accuracy in curves[name]]
        assert hits == pytest.approx([round(h) for h in hits])


def test_accuracies_and_measures_are_those_of_the_final_weights(tmp_path):
    config = tiny(**SAM)
    result = train(config, weights=tmp_path / "w")
    model = build_model(config).eval()
    model.load_state_dict(checkpoint.load(tmp_path / "w"))
    splits = make_splits("digits", seed=0, train_size=80, validation_size=40)
    with torch.no_grad():
        x = (splits.test_images / 255 - splits.info.mean[0]) / splits.info.std[0]
        right = (model(x).argmax(1) == splits.test_labels).double().mean().item()
    assert result["test_accuracy"] == pytest.approx(100 * right, abs=0.13)  # two near-ties at most
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for measure, leaf in (("gamma_abs_mean", "weight"), ("beta_abs_mean", "bias")):
        mean = torch.cat([getattr(m, leaf).detach().abs() for m in norms]).mean().item()
        assert result["measures"][measure] == pytest.approx(mean)


def test_a_network_learns():
    """The one check of the whole path: 600 digits, a few seconds, far above chance."""
    for method in ({}, SAM | {"mask": "only_norm", "rho": 0.2}):
        config = tiny(**method, model="resnet8").replace(train_size=600, epochs=4)
        result = train(config)
        assert result["test_accuracy"] > 60
        assert result["curves"]["train_loss"][-1] < 0.75 * result["curves"]["train_loss"][0]


@few_tested
def test_evaluation_can_be_rare():
    result = train(tiny(eval_every=2, epochs=5))
    for name in ("validation_accuracy", "test_accuracy"):
        assert [v is None for v in result["curves"][name]] == [True, False, True, False, False]
    often = train(tiny(epochs=5))
    assert result["test_accuracy"] == often["test_accuracy"]
    assert result["curves"]["train_loss"] == often["curves"]["train_loss"]
    assert train(tiny(validation_size=0))["validation_accuracy"] is None


@pytest.mark.parametrize("model", ["wrn10_1", "resnet8", "vit_micro"])
@few_tested
def test_norm_share(model):
    share = {}
    for mask in ("all", "only_norm", "no_norm"):
        result = train(tiny(**SAM, model=model, mask=mask, epochs=1))
        (share[mask],) = result["curves"]["norm_share"]
        assert result["curves"]["gradient_share"] == pytest.approx([share[mask]])  # T is 1
        tensors = result["measures"]["tensor_shares"]
        assert sum(tensors.values()) == pytest.approx(1 if mask == "all" else 0)
    assert share["only_norm"] == 1
    assert share["no_norm"] == 0
    assert 1e-5 < share["all"] < 0.5


@pytest.mark.parametrize(
    "method",
    [
        {"model": "wrn10_1", "lr": 1e6},
        {"model": "resnet8", "lr": 1e6, **SAM},
        {"model": "vit_micro", "geometry": "l2", "rho": 1e6},
        {"model": "wrn10_1", "geometry": "elementwise_l2", "rho": 1e30, "mask": "only_norm"},
    ],
)
def test_a_diverged_run_says_so(method, tmp_path):
    config = tiny(epochs=6).replace(**method)
    result = train(config, checkpoints=tmp_path / "run.pt", checkpoint_seconds=0)
    assert result["status"] == "diverged"
    epoch = result["diverged_epoch"]
    assert 0 <= epoch < 5
    assert {len(curve) for curve in result["curves"].values()} == {epoch + 1}
    losses = result["curves"]["train_loss"]
    assert losses[-1] is None
    assert all(math.isfinite(loss) for loss in losses[:-1])
    assert 0 < result["test_accuracy"] < 30
    json.dumps(result, allow_nan=False)


def test_a_run_whose_last_step_diverges_says_so():
    result = train(tiny(epochs=1, batch_size=128, lr=1e30))  # one step
    assert result["status"] == "diverged"


# --- pairs ---------------------------------------------------------------------------------------


def test_a_seed_gives_every_method_the_same_start():
    seen = {}

    def start_of(run):
        return run.splits, build_model(run.config).state_dict()

    for name, method in (("sgd", {}), ("sam", SAM), ("dynamic", METHODS["dynamic"])):
        train(
            tiny(**method, seed=4, epochs=1),
            on_epoch=lambda run, name=name: seen.setdefault(name, start_of(run)),
        )
    sgd, sam, dynamic = seen.values()
    for other in (sam, dynamic):
        for part in ("train_images", "train_labels", "val_labels", "test_images", "test_labels"):
            assert torch.equal(getattr(sgd[0], part), getattr(other[0], part))
        assert identical(sgd[1], other[1])
    assert not identical(sgd[1], build_model(tiny(seed=5)).state_dict())


@pytest.mark.parametrize("mask", ["only_norm", "random", "dynamic", "fisher"])
@few_tested
def test_a_run_is_sgd_up_to_its_first_active_epoch(mask):
    """Also: a mask's own draws shift neither the batches nor the augmentation."""
    start, seen = TINY["epochs"] - 1, []

    def note(run):
        if run.epoch in (start, start + 1):
            seen.append(snapshot(run.model))

    for method in ({}, SAM | {"mask": mask, "mask_samples": 16, "start": start}):
        train(tiny(augment="shift", **method), on_epoch=note)
    assert identical(seen[0], seen[2])
    assert not identical(seen[1], seen[3])


@few_tested
def test_rho_zero_has_sgds_weights(tmp_path):
    for i, method in enumerate(({}, SAM | {"rho": 0.0, "batchnorm": "first"})):
        train(tiny(**method), weights=tmp_path / str(i))
    assert identical(*(checkpoint.load(tmp_path / str(i)) for i in range(2)))


@few_tested
def test_a_perturbed_run_is_not_sgd():
    losses = [train(tiny(**m))["curves"]["train_loss"] for m in ({}, SAM, SAM | {"start": 1})]
    assert losses[0] != losses[1]
    assert losses[0][:1] == losses[2][:1]
    assert losses[0][1:] != losses[2][1:]


def test_bfloat16_is_near_float32():
    fp32, bf16 = (train(tiny(precision=p))["curves"]["train_loss"] for p in ("fp32", "bf16"))
    assert fp32 != bf16
    assert bf16 == pytest.approx(fp32, rel=0.03)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "message"),
    [
        pytest.param(
            *("cuda", "no CUDA GPU is available here; use --device cpu"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA GPU"),
        ),
        ("gpu", "unknown device 'gpu'; valid: cpu, cuda"),
    ],
)
def test_missing_devices_are_refused(device, message):
    with pytest.raises(ConfigError, match=message) as caught:
        train(tiny(), device=device)
    one_line(caught)


def test_a_gpu_by_a_number_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert usable_device("cuda") == torch.device("cuda")
    assert usable_device("cuda:1").index == 1
    with pytest.raises(ConfigError, match=r"no GPU 2 here; valid: cuda:0, cuda:1$") as caught:
        usable_device("cuda:2")
    one_line(caught)


def test_missing_data_is_refused(tmp_path):
    with pytest.raises(DataMissing, match="prepare --dataset cifar10") as caught:
        train(RunConfig(dataset="cifar10"), data_dir=tmp_path)
    one_line(caught)


def test_more_scored_examples_than_there_are_is_refused():
    few = tiny(**SAM, mask="fisher", mask_samples=81)
    with pytest.raises(ConfigError, match="mask_samples 81 are more than the 80 training images"):
        train(few)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="do not fit") as caught:
        train(tiny(train_size=1790))
    one_line(caught)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_a_run_is_near_the_cpus():
    results = [train(tiny(**SAM, epochs=1), device=device) for device in ("cpu", "cuda")]
    cpu, cuda = (r["curves"]["train_loss"][0] for r in results)
    assert cuda == pytest.approx(cpu, rel=1e-2)
