"""Steps without Python: a training step recorded as a CUDA graph and replayed batch after batch.

A small network's step is thousands of short kernels; launched one by one from Python they leave a
GPU waiting. A graph holds the whole two-pass step, its addresses and its constants (rho, learning
rate), so that it is recorded anew every epoch and what it computes does not change: the recorded
kernels are those of the plain step.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

# Fewer steps than these are taken not to pay for the recording; by judgement, not measured.
WORTH = 20


class Recorder(Protocol):
    """Where a step runs for the first time, and how it is recorded."""

    def plain(self, call: Callable[[], None]) -> None:
        """Call it, so that whatever it needs once exists before it is recorded."""

    def record(self, call: Callable[[], None]) -> Callable[[], None]:
        """Record what it does without doing it; what is returned does it."""


class CudaRecorder:
    """CUDA graphs.

    Plain calls run on the stream that is recorded, as autograd wants it (PyTorch's notes on CUDA
    graphs).
    """

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)

    def plain(self, call):
        """Call it on the recorder's stream, in order with what is queued before and after."""
        around = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(around)
        with torch.cuda.stream(self._stream):
            call()
        around.wait_stream(self._stream)

    def record(self, call):
        """Capture it; threads that load data may go on meanwhile."""
        graph = torch.cuda.CUDAGraph()
        around = torch.cuda.current_stream(self._device)
        with (
            torch.cuda.stream(around),  # what fails to be captured leaves its own stream current
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            call()
        return graph.replay


class Replayed:
    """One epoch's step: plain on its first batch, then recorded and replayed.

    Args:
        step: works on a batch's tensors; all else it reads or writes are tensors that stay where
            they are, but for what the first call alone does. Returns nothing.
        recorder: of the device.

    A batch of another size than the first, as the last of an epoch may be, gets a plain step.
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
                self._replay = self._recorded()
            self._replay()

    def _recorded(self) -> Callable[[], None]:
        def call() -> None:
            self._step(*self._batch)

        try:
            return self._recorder.record(call)
        except RuntimeError as error:
            reason = str(error).split("\n", 1)[0]
            warnings.warn(
                f"the step cannot be recorded as a CUDA graph and runs without: {reason}",
                stacklevel=2,
            )
            return call


def replayed(
    step: Callable[..., None], steps: int, device: torch.device
) -> Callable[..., None] | Replayed:
    """The step of an epoch of so many, replayed where that pays, or as it is."""
    if device.type != "cuda" or steps < WORTH:
        return step
    return Replayed(step, _recorder(device))


_recorder = functools.cache(CudaRecorder)  # all epochs of a process on one stream
