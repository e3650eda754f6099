"""Recorded steps: the same numbers as plain ones, whatever is perturbed."""

import pytest
import torch
from conftest import one_line
from recorded import BASE, CONFIGS, METHODS

from samlib.errors import ConfigError
from samlib.trainer import cuda_graphs
from samlib.trainer.cuda_graphs import SWITCH, WORTH, CudaRecorder, Replayed, replayed, status
from samlib.trainer.loop import Trainer
from samlib.trainer.one_run import train

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class OnCpu:
    """A recorder that calls again what it was given, where a GPU would replay kernels."""

    def __init__(self):
        self.refused = None
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


class Refusing(OnCpu):
    """A recorder of what cannot be captured."""

    def record(self, call):
        self.records += 1
        raise RuntimeError("operation not permitted\nwhen a stream is capturing")


@pytest.fixture
def on_cpu(monkeypatch):
    """Recorders of the epochs of runs, which record as a GPU would."""
    made = []

    def replayed(self, step):
        assert self.full_batches == 4
        made.append(OnCpu())
        return Replayed(step, made[-1])

    monkeypatch.setattr(Trainer, "replayed", replayed)
    return made


def test_the_first_batch_and_a_short_one_are_plain_the_others_replayed(on_cpu):
    train(BASE)
    assert [(r.plains, r.records, r.replays) for r in on_cpu] == [(2, 1, 3)] * BASE.epochs


def test_every_batch_is_copied_to_where_the_recording_reads():
    seen, step = [], Replayed(lambda x, y: seen.append((x.clone(), y.clone())), OnCpu())
    batches = [(torch.full((2, 3), float(i)), torch.full((2,), i)) for i in range(4)]
    batches.append((torch.full((1, 3), 9.0), torch.full((1,), 9)))
    for x, y in batches:
        step(x, y)
    for (x, y), (seen_x, seen_y) in zip(batches, seen, strict=True):
        assert torch.equal(x, seen_x)
        assert torch.equal(y, seen_y)


def test_what_cannot_be_recorded_runs_plainly_and_is_said_once():
    recorder, seen = Refusing(), []

    def epoch():
        step = Replayed(lambda x: seen.append(x.item()), recorder)
        for number in range(3):
            step(torch.tensor(float(number)))

    reason = "a step cannot be recorded: operation not permitted"
    with pytest.warns(UserWarning, match=f"runs without CUDA graphs, as {reason}$") as said:
        epoch()
    assert len(said) == 1
    assert recorder.refused == reason
    epoch()  # warnings are errors here
    assert seen == [0.0, 1.0, 2.0] * 2
    assert (recorder.records, recorder.plains) == (1, 6), "the allocator would not bear another"


def test_a_step_that_fails_when_it_is_not_recorded_is_no_refusal():
    def step(x):
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        Replayed(step, OnCpu())(torch.zeros(1))


class Cuda:
    """Streams and graphs in the place of torch.cuda's; what happens to them, in order."""

    def __init__(self, monkeypatch, fails=()):
        self.current, self.log, fake = ["outer"], [], self

        class Chosen:
            def __init__(self, stream):
                self.stream = stream

            def __enter__(self):
                self.before, fake.current[0] = fake.current[0], self.stream

            def __exit__(self, *exception):
                fake.current[0] = self.before

        class Graph:
            def capture_begin(self, pool, capture_error_mode):
                fake.log.append(("begin", fake.current[0], pool, capture_error_mode))

            def capture_end(self):
                fake.log.append(("end", fake.current[0]))
                if "end" in fails:
                    raise RuntimeError("the capture was invalidated")

            def replay(self):
                fake.log.append(("replay", fake.current[0]))

        pools = iter(("a pool", "another"))
        fakes = {
            "stream": Chosen,
            "current_stream": lambda device: fake.current[0],
            "Stream": lambda device: "inner",
            "CUDAGraph": Graph,
            "graph_pool_handle": lambda: next(pools),
        }
        for name, value in fakes.items():
            monkeypatch.setattr(torch.cuda, name, value)


def test_graphs_are_captured_on_one_stream_into_one_pool(monkeypatch):
    cuda = Cuda(monkeypatch)
    recorder = CudaRecorder(GPU)
    for _ in range(2):
        recorder.record(lambda: cuda.log.append("call"))()
    begin = ("begin", "inner", "a pool", "thread_local")
    assert cuda.log == [begin, "call", ("end", "inner"), ("replay", "outer")] * 2
    assert cuda.current == ["outer"]


def test_a_graph_lives_until_the_next_has_its_memory(monkeypatch):
    Cuda(monkeypatch)
    recorder = CudaRecorder(GPU)
    recorder.record(lambda: None)
    first, during = recorder._last, []
    recorder.record(lambda: during.append(recorder._last))
    assert during == [first]
    assert recorder._last is not first


def test_what_made_a_capture_fail_is_what_is_said_and_the_stream_is_as_it_was(monkeypatch):
    def call():
        raise RuntimeError("a host read")

    for fails in ((), ("end",)):
        cuda = Cuda(monkeypatch, fails)
        with pytest.raises(RuntimeError, match="a host read"):
            CudaRecorder(GPU).record(call)
        assert cuda.log[-1] == ("end", "inner"), "a capture that has begun is ended"
        assert cuda.current == ["outer"]
    with pytest.raises(RuntimeError, match="was invalidated"):
        CudaRecorder(GPU).record(lambda: None)
    assert cuda.current == ["outer"]


def test_steps_are_recorded_on_a_gpu_and_where_it_pays(monkeypatch):
    def step():
        pass

    recorder = OnCpu()
    monkeypatch.setattr(cuda_graphs, "recorder", lambda device: recorder)
    assert status(1000, CPU) is False
    assert replayed(step, 1000, CPU) is step
    assert status(WORTH - 1, GPU) == f"{WORTH - 1} steps an epoch are fewer than {WORTH}"
    assert replayed(step, WORTH - 1, GPU) is step
    assert status(WORTH, GPU) is True
    assert isinstance(replayed(step, WORTH, GPU), Replayed)
    recorder.refused = "a step cannot be recorded: no"
    assert status(WORTH, GPU) == "a step cannot be recorded: no"
    assert replayed(step, WORTH, GPU) is step


def test_a_switch_turns_graphs_off(monkeypatch):
    monkeypatch.setenv(SWITCH, "0")
    assert status(1000, GPU) == "SAMLIB_GRAPHS is 0"
    assert status(1000, CPU) is False
    monkeypatch.setenv(SWITCH, "off")
    with pytest.raises(ConfigError, match="unknown SAMLIB_GRAPHS 'off'; valid: 0, 1") as caught:
        status(1000, CPU)
    one_line(caught)


def test_a_run_says_whether_its_steps_were_replayed(monkeypatch):
    config = BASE.replace(epochs=1)
    assert train(config)["provenance"]["replayed"] is False
    monkeypatch.setattr(Trainer, "replays", "SAMLIB_GRAPHS is 0")
    assert train(config)["provenance"]["replayed"] == "SAMLIB_GRAPHS is 0"


# --- on a GPU ------------------------------------------------------------------------------------

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("method", CONFIGS)
def test_on_a_gpu_recorded_steps_follow_plain_ones(monkeypatch, method):
    config = CONFIGS[method].replace(lr=1e-3)
    monkeypatch.setenv(SWITCH, "0")
    plain = train(config, device="cuda")
    monkeypatch.setenv(SWITCH, "1")
    monkeypatch.setattr(cuda_graphs, "WORTH", 2)
    recorded = train(config, device="cuda")
    assert plain["provenance"]["replayed"] is not True
    # Of what is not recorded the record says so.
    not_recorded = f"steps of member {config.member} are not recorded"
    assert recorded["provenance"]["replayed"] in (True, not_recorded)
    loose = 2e-2 if method == "bf16" else 1e-3
    losses = [run["curves"]["train_loss"] for run in (recorded, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=loose)


@pytest.mark.cuda
@cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # a prototype, says PyTorch
@pytest.mark.parametrize("method", CONFIGS)
def test_on_a_gpu_no_step_waits_for_the_device(monkeypatch, method):
    """Neither a replayed one nor the plain one of the short batch."""

    def watched(self, step):
        if self.stepper and not self.stepper.recordable:
            return step
        inner, calls = Replayed(step, cuda_graphs.recorder(self.device)), []

        def call(*batch):
            calls.append(0)
            torch.cuda.set_sync_debug_mode("error" if len(calls) > 2 else "default")
            try:
                inner(*batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return call

    monkeypatch.setattr(Trainer, "replayed", watched)
    train(CONFIGS[method].replace(lr=1e-3), device="cuda")


@pytest.mark.cuda
@cuda
def test_on_a_gpu_epochs_share_the_pools_memory(monkeypatch):
    """Recording anew every epoch must not reserve more each time."""
    monkeypatch.setattr(cuda_graphs, "WORTH", 2)
    reserved = []
    config = BASE.replace(epochs=6, **METHODS["only_norm"])
    train(config, device="cuda", on_epoch=lambda run: reserved.append(torch.cuda.memory_reserved()))
    assert reserved[-1] <= reserved[2]
