"""How long a step of every member of the family takes, mask only norm, over the base optimizer's.

Members whose steps are not all alike (every k-th, drawn, adaptive, refreshed now and then) are
timed over a cycle of steps, and the time of one is the mean. Steps are those of `train`, launched
from Python on every device: not every member's can be replayed.
"""

from dataclasses import dataclass

import torch

from samlib.bench import step
from samlib.bench.timing import (
    Step,
    as_in_training,
    at_least_one,
    interleaved,
    made_by,
    network,
    over,
    quartiles,
    random_run,
)
from samlib.errors import ConfigError
from samlib.sam.family import MEMBERS
from samlib.study import members, profiles
from samlib.study.methods import ON
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import usable_device

CYCLES = {"every_k": 5, "eigen_sam": 100}  # steps after which costs repeat
_STABLE = 10  # steps of which a mean is stable, where costs are drawn or adaptive


def cycle_of(member: str) -> int:
    """Steps of a member that are timed together: 1 where every step costs the same."""
    passes = MEMBERS[member].passes
    uneven = "+" in passes or "to" in passes
    return CYCLES.get(member, _STABLE if uneven else 1)


@dataclass(frozen=True)
class Setting:
    """What is timed: the members that a profile runs with only norm, on its headline network.

    Attributes:
        profile: whose members, network, image size, batch, optimizer and precision.
        rounds: how often every contender is timed.
        device, threads: where; threads on the CPU.
    """

    profile: str = "quick"
    rounds: int = 20
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self):
        at_least_one(self, "rounds", "threads")
        if not self.members:
            raise ConfigError(f"profile {self.profile} runs no member of the family with only norm")

    @property
    def config(self) -> RunConfig:
        """The base optimizer's run; small steps keep the weights of a long bench finite."""
        return step.Setting(profile=self.profile).config

    @property
    def members(self) -> tuple[str, ...]:
        """The members, SAM-ON first."""
        found = members.methods(profiles.get(self.profile))
        others = [members.member(m) for m in found if m.mask == ON.mask]
        return ("sam", *others) if others else ()


def _steps(config: RunConfig, device: torch.device, cycle: int) -> Step:
    """A cycle of training steps on one batch of random images."""
    run = random_run(config, device, config.batch_size)
    loss_sum, correct = torch.zeros(2, device=device)
    one = run.step(loss_sum, correct, [])
    batch = run.splits.train_images, run.splits.train_labels

    def steps() -> None:
        for _ in range(cycle):
            one(*batch, run.stepper and run.stepper.plan(0))

    return steps


def measure(setting: Setting) -> dict:
    """Time every member, and return a record: `ratios` over the base optimizer and `seconds`.

    Both are quartiles over rounds, of one step; "base again" is the control.

    Raises:
        ConfigError: the device is not there.
    """
    device, config = usable_device(setting.device), setting.config
    cycles = dict.fromkeys(("base", "base again"), 1)
    cycles |= {name: cycle_of(name) for name in setting.members}
    on = {"geometry": ON.geometry, "mask": ON.mask, "rho": 0.1}
    with as_in_training(setting.threads, device):
        calls = {
            name: _steps(
                config if name.startswith("base") else config.replace(member=name, **on),
                device,
                cycle,
            )
            for name, cycle in cycles.items()
        }
        took = interleaved(calls, setting.rounds, device)
    one = {name: [t / cycles[name] for t in times] for name, times in took.items()}
    return {
        "run_id": f"family-{setting.profile}-{device.type}",
        "setting": vars(setting),
        "network": network(config),
        "cycles": cycles,
        "ratios": {name: over(times, one["base"]) for name, times in one.items()},
        "seconds": {name: quartiles(times) for name, times in one.items()},
        "provenance": made_by(device, "members of the family are timed as launched from Python"),
    }


def table(record: dict) -> str:
    """A record as text, a line per member."""
    lines = [f"{record['run_id']}, {record['setting']['rounds']} rounds, ratio to base:"]
    for name, (low, median, high) in record["ratios"].items():
        lines.append(
            f"  {name:16} {median:5.2f}  [{low:.2f}, {high:.2f}]"
            f" {1000 * record['seconds'][name][1]:9.2f} ms"
        )
    return "\n".join(lines)
