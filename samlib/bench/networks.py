"""How long a training step of every network of the profiles takes on the hardware at hand.

Each trains on random images as `train` would; reading and decoding images in folders is left out.
On a CPU a batch of the real size can take half a minute: where it would take seconds, a smaller one
is timed and its time scaled with its size; the record says so. On a GPU a step is replayed as in an
epoch, and without the augmentation, which works on a whole epoch at once: `bench augment` has its
share.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from samlib.bench.timing import (
    Step,
    as_in_training,
    as_trained,
    at_least_one,
    made_by,
    network,
    quartiles,
    random_run,
    seconds,
    warmed,
)
from samlib.data.info import INFO
from samlib.study import profiles
from samlib.study.profile import Profile
from samlib.trainer import cuda_graphs
from samlib.trainer.config import NO_PERTURBATION, RunConfig
from samlib.trainer.loop import Trainer
from samlib.trainer.one_run import usable_device

_CPU_BATCH = 16  # tried first on a CPU
_MOST = 2.0  # seconds: longer steps are scaled from the small batch, which counts bf16 too dear
_LEAST = 0.5  # seconds: short steps are timed more often
SKIPPED = ("smoke",)  # trains the networks of quick


@dataclass(frozen=True)
class Setting:
    """How steps are timed.

    Attributes:
        rounds: timed steps of every network, at least; more where half a second holds more.
        device, threads: where; threads on the CPU.
    """

    rounds: int = 2
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self):
        at_least_one(self, "rounds", "threads")


def identity(base: RunConfig) -> dict:
    """What the time of an epoch's steps depends on."""
    return network(base) | {"augment": base.augment}


def networks() -> list[RunConfig]:
    """A base run of every network that some profile trains."""
    bases = {
        tuple(identity(base).values()): base
        for profile in profiles.PROFILES.values()
        if profile.name not in SKIPPED
        for base in _bases(profile)
    }
    return list(bases.values())


def _bases(profile: Profile) -> list[RunConfig]:
    """A profile's base runs, and those of networks that its methods put in their place."""
    changed = (row for row in profile.grids if row.method.changes and row.problem)
    base = [row for row in changed if row.method.geometry == NO_PERTURBATION]
    replaced = [row.method.on(profile.bases[row.problem], 0.0, 0) for row in base]
    return [*profile.bases.values(), *replaced]


def _step(run: Trainer) -> Step:
    """A step on the whole training set of a random run, one batch, in the form it has there."""
    if run.device.type == "cpu":
        return run.train_epoch
    loss_sum, correct = torch.zeros(2, device=run.device)
    step = run.step(loss_sum, correct, [])
    return as_trained(lambda: step(run.splits.train_images, run.splits.train_labels), run.device)


def _run(base: RunConfig, device: torch.device) -> Trainer:
    """A run on one batch: the real one, or a small one where the real would take too long."""
    # Images in folders are augmented as they are decoded, which is not timed.
    augment = "none" if INFO[base.dataset].folders else base.augment

    def of(batch: int) -> Trainer:
        return random_run(base.replace(batch_size=batch, augment=augment), device, batch)

    if device.type == "cpu" and base.batch_size > _CPU_BATCH:
        run = of(_CPU_BATCH)
        step = _step(run)
        step()
        if seconds(step, device) * base.batch_size / _CPU_BATCH > _MOST:
            return run
    return of(base.batch_size)


def _timed(base: RunConfig, device: torch.device, rounds: int) -> dict:
    """One network's entry: seconds of a step of the base optimizer, and to evaluate a batch."""
    run = _run(base, device)
    images, labels = run.splits.train_images, run.splits.train_labels
    took = {}
    for what, call in (
        ("step", _step(run)),
        ("evaluation", lambda: run.accuracy(images, labels)),
    ):
        times = warmed(call, device)
        found: list[float] = []
        while len(found) < rounds or times * sum(found) < _LEAST:
            found.append(seconds(call, device, times))
        took[what] = quartiles([base.batch_size / len(images) * value for value in found])
    return {"network": identity(base), "timed_batch": len(images), "seconds": took}


def measure(setting: Setting, bases: Iterable[RunConfig] | None = None) -> dict:
    """Time every network, or some, and return a record.

    Raises:
        ConfigError: the device is not there.
    """
    device = usable_device(setting.device)
    with as_in_training(setting.threads, device):
        chosen = networks() if bases is None else bases
        found = [_timed(base, device, setting.rounds) for base in chosen]
    return {
        "run_id": f"networks-{device.type}",
        "setting": vars(setting),
        "networks": found,
        "provenance": made_by(device, cuda_graphs.status(cuda_graphs.WORTH, device)),
    }


def table(record: dict) -> str:
    """A record as text: one line per network."""
    lines = [f"{record['run_id']}, a step of the base optimizer and the evaluation of a batch:"]
    for entry in record["networks"]:
        n = entry["network"]
        name = f"{n['model']} {n['image_size']}px {n['optimizer']} {n['precision']} {n['augment']}"
        times = "  ".join(f"{1000 * took[1]:10.2f} ms" for took in entry["seconds"].values())
        cut = "" if entry["timed_batch"] == n["batch_size"] else f" from {entry['timed_batch']}"
        lines.append(f"  {name:48} {times}  batch {n['batch_size']}{cut}")
    return "\n".join(lines)
