"""Recorded steps: the same numbers as plain ones, whatever is perturbed."""

import pytest
import torch

from samlib.trainer import cuda_graphs
from samlib.trainer.config import RunConfig
from samlib.trainer.cuda_graphs import CudaRecorder, Replayed, replayed
from samlib.trainer.loop import Trainer
from samlib.trainer.one_run import train

CPU = torch.device("cpu")
# Four full batches and a short one.
BASE = RunConfig(train_size=75, validation_size=20, epochs=3, batch_size=16, mask_samples=16)
METHODS = {
    "none": {},
    "all": {"geometry": "l2", "mask": "all", "rho": 0.1},
    "only_norm": {"geometry": "elementwise_l2", "mask": "only_norm", "rho": 1.0},
    "blocks_23": {"geometry": "l2", "mask": "blocks_23", "rho": 1.0, "batchnorm": "first"},
    "linf": {"geometry": "elementwise_linf", "mask": "no_norm", "rho": 0.01},
    "random": {"geometry": "l2", "mask": "random", "rho": 1.0, "radius_over": "all"},
    "fisher": {"geometry": "l2", "mask": "fisher", "rho": 0.1, "mask_every": 1},
    "dynamic": {"geometry": "l2", "mask": "dynamic", "rho": 0.1, "mask_every": 1},
    "late": {"geometry": "l2", "mask": "all", "rho": 0.1, "start": 1},
    "bf16": {"geometry": "l2", "mask": "only_norm", "rho": 1.0, "precision": "bf16"},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "clip_norm": 1.0, "model": "vit_micro"},
}


class OnCpu:
    """A recorder that calls again what it was given, where a GPU would replay kernels."""

    def __init__(self):
        self.plains = self.records = self.replays = 0

    def plain(self, call):
        self.plains += 1
        call()

    def record(self, call):
        self.records += 1

        def replay():
            self.replays += 1
            call()

        return replay


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_recorded_steps_is_the_same_bit_for_bit(monkeypatch, method):
    config = BASE.replace(**METHODS[method])
    plain, made = train(config), []

    def on_cpu(self, step, steps):
        assert steps == 4
        made.append(OnCpu())
        return Replayed(step, made[-1])

    monkeypatch.setattr(Trainer, "replayed", on_cpu)
    recorded = train(config)
    for name in ("curves", "measures", "test_accuracy"):
        assert recorded[name] == plain[name]
    # Anew every epoch: the first batch and the short one are plain, the others replayed.
    assert [(r.plains, r.records, r.replays) for r in made] == [(2, 1, 3)] * 3


def test_every_batch_is_copied_to_where_the_recording_reads():
    seen, step = [], Replayed(lambda x, y: seen.append((x.clone(), y.clone())), OnCpu())
    batches = [(torch.full((2, 3), float(i)), torch.full((2,), i)) for i in range(4)]
    batches.append((torch.full((1, 3), 9.0), torch.full((1,), 9)))
    for x, y in batches:
        step(x, y)
    for (x, y), (seen_x, seen_y) in zip(batches, seen, strict=True):
        assert torch.equal(x, seen_x)
        assert torch.equal(y, seen_y)


def test_what_cannot_be_recorded_runs_plainly_and_says_so():
    class Refusing(OnCpu):
        def record(self, call):
            raise RuntimeError("operation not permitted\nwhen a stream is capturing")

    seen = []
    step = Replayed(lambda x: seen.append(x.item()), Refusing())
    step(torch.tensor(0.0))
    with pytest.warns(UserWarning, match="runs without: operation not permitted$"):
        step(torch.tensor(1.0))
    step(torch.tensor(2.0))
    assert seen == [0.0, 1.0, 2.0]


def test_a_step_that_cannot_be_captured_leaves_the_stream_as_it_was(monkeypatch):
    """The capture's own context does not put it back if its end fails."""
    current = ["outer"]

    class Chosen:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            self.before, current[0] = current[0], self.stream

        def __exit__(self, *exception):
            current[0] = self.before

    class Graph:
        def capture_begin(self, **options):
            assert current == ["inner"]

        def capture_end(self):
            raise RuntimeError("a step failed during the capture")

    fakes = {
        "stream": Chosen,
        "current_stream": lambda device: current[0],
        "Stream": lambda device: "inner",
        "CUDAGraph": Graph,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None)
    with pytest.raises(RuntimeError, match="during the capture"):
        CudaRecorder(CPU).record(lambda: None)
    assert current == ["outer"]


def test_steps_are_recorded_on_a_gpu_and_where_it_pays():
    def step():
        pass

    assert replayed(step, 1000, CPU) is step
    assert replayed(step, cuda_graphs.WORTH - 1, torch.device("cuda")) is step


# --- on a GPU ------------------------------------------------------------------------------------

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_recorded_steps_follow_plain_ones(monkeypatch, method):
    config = BASE.replace(**{"lr": 1e-3} | METHODS[method])
    monkeypatch.setattr(cuda_graphs, "WORTH", 10**6)
    plain = train(config, device="cuda")["curves"]["train_loss"]
    monkeypatch.setattr(cuda_graphs, "WORTH", 2)
    recorded = train(config, device="cuda")["curves"]["train_loss"]
    loose = 2e-2 if method == "bf16" else 1e-3
    assert recorded == pytest.approx(plain, rel=loose)


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_no_step_waits_for_the_device(monkeypatch, method):
    """Neither a replayed one nor the plain one of the short batch."""

    def watched(self, step, steps):
        inner, calls = Replayed(step, CudaRecorder(self.device)), []

        def call(*batch):
            calls.append(0)
            torch.cuda.set_sync_debug_mode("error" if len(calls) > 2 else "default")
            try:
                inner(*batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return call

    monkeypatch.setattr(Trainer, "replayed", watched)
    train(BASE.replace(**{"lr": 1e-3} | METHODS[method]), device="cuda")
