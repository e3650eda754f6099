"""The processes torchrun started for a run, and what they send each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """This process among the workers of a run."""

    rank: int
    count: int
    device: str

    def average(self, tensors: list[Tensor], share: float) -> None:
        """Replace tensors by their sum over workers, each weighted by its share, in one message."""
        flat = torch._utils._flatten_dense_tensors(tensors).mul_(share)
        dist.all_reduce(flat)
        for t, averaged in zip(
            tensors, torch._utils._unflatten_dense_tensors(flat, tensors), strict=True
        ):
            t.copy_(averaged)

    def total(self, *values: float) -> list[float]:
        """Sums over workers."""
        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(found)
        return found.tolist()

    def from_first(self, state: dict | None) -> dict | None:
        """The first worker's state, such as a checkpoint, sent to all; no shared file is needed.

        The state is pickled on the way: workers trust each other, as in PyTorch's process groups.

        Args:
            state: state of the first worker; the others' argument is ignored.
        """
        found = [state]
        dist.broadcast_object_list(found, src=0)
        return found[0]


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def join(device: str) -> Iterator[Workers]:
    """Join the other workers for the length of the block.

    Args:
        device: cpu or cuda; each worker takes the GPU of its local rank.
    """
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if device.startswith("cuda"):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Workers(rank, count, device)
    finally:
        dist.destroy_process_group()
