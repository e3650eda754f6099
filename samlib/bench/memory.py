"""What a block of code takes of a device's memory, in bytes of tensors.

On a CPU the running sum of allocations and frees, exact and the same each time; scratch space
that a kernel's library gets past PyTorch is not seen. On a GPU what the allocator of PyTorch
counts, in blocks of 512 bytes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from samlib.records.store import uncollected


@dataclass
class Taken:
    """Bytes above what was allocated before the block, known when it has ended.

    Attributes:
        net: what the block left allocated.
        peak: the most at one time.
    """

    net: int = 0
    peak: int = 0


@contextmanager
def taken(device: torch.device) -> Iterator[Taken]:
    """Measure the block: `with taken(device) as found: ...`, then `found.peak`.

    The block must free nothing that was allocated before it: on a CPU that would not be seen.
    """
    found = Taken()
    with uncollected():  # or garbage of before is freed inside the block
        if device.type == "cuda":
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            yield found
            found.net = torch.cuda.memory_allocated(device) - before
            found.peak = torch.cuda.max_memory_allocated(device) - before
            return
        # A build for GPUs complains on the error stream where there is none.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        cpu = [ProfilerActivity.CPU]
        with profile(activities=cpu, profile_memory=True, acc_events=True) as profiler:
            yield found
    # Not `profiler.events()`, which adds up by operation and so loses the order.
    events = profiler.profiler.kineto_results.events()
    sizes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    sizes.sort(key=lambda event: event[0])
    allocated = list(accumulate((size for _, size in sizes), initial=0))
    found.net, found.peak = allocated[-1], max(allocated)
