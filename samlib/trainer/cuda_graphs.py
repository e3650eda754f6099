"""Steps without Python: a training step recorded as a CUDA graph and replayed batch after batch.

A small network's step is thousands of short kernels; launched one by one from Python they leave a
GPU waiting. A graph holds the whole two-pass step, its addresses and its constants (rho, learning
rate), so that it is recorded anew every epoch and what it computes does not change: the recorded
kernels are those of the plain step.
"""

import functools
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor

from samlib.errors import choose, first_line

# Fewer steps than these are taken not to pay for the recording; by judgement, not measured.
WORTH = 20
SWITCH = "SAMLIB_GRAPHS"  # environment variable; 0 has every step launched from Python


class Recorder(Protocol):
    """How a step runs for the first time, and how it is recorded.

    Attributes:
        refused: why recording a step failed; None while no recording failed.
    """

    refused: str | None

    def plain(self, call: Callable[[], None]) -> None:
        """Call the step once, so that its lazy set-up precedes the recording."""

    def record(self, call: Callable[[], None]) -> Callable[[], None]:
        """Record the call without running it; return a function that replays it."""


class CudaRecorder:
    """CUDA graphs of one device, one after the other in one pool of memory.

    Plain calls run on the stream that is recorded, as autograd wants it (PyTorch's notes on CUDA
    graphs). Graphs may share their memory because they are replayed in turn and nothing but what a
    step leaves in its parameters' `.grad` outlives a replay.
    """

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._last: torch.cuda.CUDAGraph | None = None  # keeps the pool's memory for the next
        self.refused: str | None = None

    def plain(self, call: Callable[[], None]) -> None:
        """Call the step on the recorder's stream, in order with the work queued around it."""
        around = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(around)
        with torch.cuda.stream(self._stream):
            call()
        around.wait_stream(self._stream)

    def record(self, call: Callable[[], None]) -> Callable[[], None]:
        """Capture the call in a graph; threads that load data may go on meanwhile.

        `torch.cuda.graph` is not used: before each capture it waits for the device and gives the
        cached memory back.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                call()
            except BaseException:
                with suppress(RuntimeError):  # the reason is what the call said
                    graph.capture_end()
                raise
            graph.capture_end()
        self._last = graph
        return graph.replay


class Replayed:
    """One epoch's step: plain on its first batch, then recorded and replayed.

    Args:
        step: works on a batch's tensors; all else it reads or writes are tensors that stay where
            they are, but for what the first call alone does. Returns nothing.
        recorder: of the device.

    A batch of another size than the first, as the last of an epoch may be, gets a plain step. After
    a step that could not be recorded, nothing is recorded again: PyTorch's allocator takes the
    failed recording for one that goes on (pytorch/pytorch#180395).
    """

    def __init__(self, step: Callable[..., None], recorder: Recorder):
        self._step, self._recorder = step, recorder
        self._batch: tuple[Tensor, ...] | None = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, *batch: Tensor) -> None:
        """Train on a batch."""
        if self._batch is None:
            self._batch = tuple(t.clone() for t in batch)
            self._recorder.plain(lambda: self._step(*batch))
        elif [t.shape for t in batch] != [t.shape for t in self._batch]:
            self._recorder.plain(lambda: self._step(*batch))
        else:
            for mine, given in zip(self._batch, batch, strict=True):
                mine.copy_(given)
            if self._replay is None:
                self._replay = self._recorded(self._batch)
            self._replay()

    def _recorded(self, batch: tuple[Tensor, ...]) -> Callable[[], None]:
        def call() -> None:
            self._step(*batch)

        if self._recorder.refused is None:
            try:
                return self._recorder.record(call)
            except RuntimeError as error:
                self._recorder.refused = f"a step cannot be recorded: {first_line(error)}"
                warnings.warn(
                    f"this process runs without CUDA graphs, as {self._recorder.refused}",
                    stacklevel=2,
                )
        return lambda: self._recorder.plain(call)


def status(steps: int, device: torch.device) -> bool | str:
    """Whether an epoch of so many steps is replayed on a device; False on a CPU, or why not.

    Raises:
        ConfigError: the switch is neither 0 nor 1.
    """
    on = choose(SWITCH, os.environ.get(SWITCH, "1"), ("0", "1")) == "1"
    if device.type != "cuda":
        return False
    if not on:
        return f"{SWITCH} is 0"
    if steps < WORTH:
        return f"{steps} steps an epoch are fewer than {WORTH}"
    return recorder(device).refused or True


def replayed(
    step: Callable[..., None], steps: int, device: torch.device
) -> Callable[..., None] | Replayed:
    """The step of an epoch of so many, replayed where that pays, or as it is."""
    return Replayed(step, recorder(device)) if status(steps, device) is True else step


recorder = functools.cache(CudaRecorder)  # all epochs of a process on one stream, in one pool
