"""The command line with a profile of ten short runs and two measurements, for the fault tests.

`python tests/tiny_campaign.py run --profile tiny --results DIR` is `python -m samlib run` with a
checkpoint after every epoch. A script, and not code given with -c: worker processes import it
again, so that what it changes holds in them, too. SAMLIB_FAULT names what goes wrong in it.
"""

import itertools
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

from samlib.__main__ import main
from samlib.campaign import jobs
from samlib.study import plan, profiles
from samlib.study.cells import Needs, ToMeasure
from samlib.study.profile import Profile
from samlib.trainer.one_run import train

_SMOKE = profiles.get("smoke")
TINY = replace(
    _SMOKE,
    name="tiny",
    about="ten runs of many short epochs",
    bases={"wrn": _SMOKE.bases["wrn"].replace(epochs=8, eval_every=4)},
    seeds=1,  # of the sweep over rho; the chosen rho gets one more
)


def needs(profile: Profile) -> Needs:
    """The base optimizer, SAM and SAM-ON, and a measure of the first."""
    cells = plan.introduction(profile).cells[:3]
    return Needs(cells, [ToMeasure(cells[0], "sharpness", 2)])


def train_with_checkpoints(config, *, on_epoch, **options):
    """`train`, with a checkpoint every epoch, and out of memory half-way if that is asked for."""

    def each(run):
        on_epoch(run)
        if FAULT == "memory" and config.seed == 1 and run.epoch == config.epochs // 2:
            take_all_memory()

    return train(config, on_epoch=each, checkpoint_seconds=0, **options)


def take_all_memory() -> None:
    """Allow this process no more memory than it has, and use up what it has spare."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    taken = []
    while True:
        taken.append(bytearray(2**20))


def set_clock_back() -> None:
    """Have every look at the clock find it a day earlier than the one before."""
    now, looks = time.time(), itertools.count()
    time.time = lambda: now - 86_400 * next(looks)


FAULT = os.environ.get("SAMLIB_FAULT")

# In this program and in its workers only: whoever imports this file, as pytest does to look for
# doctests, keeps the study as it is.
if __name__ in ("__main__", "__mp_main__"):
    profiles.PROFILES["tiny"] = TINY
    plan.NEEDS.clear()
    plan.NEEDS["introduction"] = needs
    jobs.train = train_with_checkpoints
    if FAULT == "clock":
        set_clock_back()

if __name__ == "__main__":
    sys.exit(main())
