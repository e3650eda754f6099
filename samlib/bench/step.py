"""How long a step takes, as a ratio to the base optimizer's, and where its time goes.

A ratio is taken within a round of `timing.interleaved`. Two identical contenders of the base
optimizer are the control: their ratio shows what the measurement can resolve. The pieces of a step
are timed in the same rounds; their sums are the floors.

On a GPU steps and pieces are replayed graphs, as training replays them. Beside them are timed the
same steps launched from Python, among them the peer's, which nobody replays, and products of large
matrices, whose rate is the device's limit.
"""

from dataclasses import dataclass

import torch

from samlib import models
from samlib.bench.limits import matrix_rate, operations, products
from samlib.bench.pieces import floor, pieces
from samlib.bench.timing import (
    Step,
    as_in_training,
    as_trained,
    at_least_one,
    interleaved,
    made_by,
    network,
    over,
    quartiles,
)
from samlib.bench.whole_steps import (
    MASKS,
    ONE_PASS,
    PEER,
    WholeStep,
    memory,
    missing_peer,
    whole_steps,
)
from samlib.errors import ConfigError, choose
from samlib.study import profiles
from samlib.trainer import cuda_graphs
from samlib.trainer.config import PRECISIONS, RunConfig
from samlib.trainer.one_run import usable_device


@dataclass(frozen=True)
class Setting:
    """What is timed: a network of a profile on its own data's size, or one of the zoo.

    Attributes:
        profile: take network, image size, batch, optimizer and precision from there.
        problem: which of its networks; None is the headline's.
        model: without a profile, a model of the zoo at 32 x 32 pixels and 100 classes, with SGD;
            None is resnet56.
        batch_size: None is the profile's, or 32.
        precision: None is the profile's, or fp32 on a CPU and bf16 on a GPU.
        rounds: how often every contender is timed.
        device, threads: where; threads on the CPU.
    """

    profile: str | None = None
    problem: str | None = None
    model: str | None = None
    batch_size: int | None = None
    precision: str | None = None
    rounds: int = 20
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self):
        if self.profile is not None and self.model is not None:
            raise ConfigError("a profile brings its own model: give --profile or --model")
        if self.profile is None and self.problem is not None:
            raise ConfigError("a problem is one of a profile: give --profile, too")
        if self.model is not None:
            choose("model", self.model, models.names())
        if self.precision is not None:
            choose("precision", self.precision, PRECISIONS)
        at_least_one(self, "batch_size", "rounds", "threads")
        _ = self.config  # refuses an unknown profile or problem

    @property
    def config(self) -> RunConfig:
        """The base optimizer's run; small steps keep the weights of a long bench finite."""
        if self.profile is None:
            precision = "bf16" if self.device.startswith("cuda") else "fp32"
            model = self.model or "resnet56"
            base = RunConfig(dataset="cifar100", model=model, batch_size=32, precision=precision)
        else:
            profile = profiles.get(self.profile)
            base = profile.bases[choose("problem", self.problem or profile.headline, profile.bases)]
        return base.replace(
            batch_size=self.batch_size or base.batch_size,
            precision=self.precision or base.precision,
            lr=min(base.lr, 1e-3),
        )


def on_gpu(device: torch.device) -> bool:
    """Whether steps are replayed, and so timed from Python and beside the device's limit, too."""
    return device.type == "cuda"


def _calls(steps: dict[str, WholeStep], parts: dict[str, Step], device: torch.device) -> dict:
    """By name, what is timed; `plain <name>` is a step launched from Python."""
    if not on_gpu(device):
        return {name: whole.step for name, whole in steps.items()} | parts
    ours = {name: whole.step for name, whole in steps.items() if name != PEER}
    plain = {f"plain {name}": whole.step for name, whole in steps.items()}
    return {name: as_trained(call, device) for name, call in (ours | parts).items()} | plain


def ratio(took: dict[str, list[float]], name: str) -> list[float]:
    """Quartiles of a whole step's time over the base optimizer's; of a plain one's over a plain."""
    plain = "" if name in took else "plain "
    return over(took[plain + name], took[plain + "base"])


def _floors(took: dict[str, list[float]], steps: dict[str, WholeStep]) -> dict:
    """Floors as ratios: of masks, and of the base optimizer, which steps of one pass share."""
    found = {n or "base": over(floor(took, n), took["base"]) for n in (None, *MASKS)}
    return found | {name: found["base"] for name in ONE_PASS if name in steps}


def limited(took: dict[str, list[float]], steps: dict[str, WholeStep], sizes: list[int]) -> dict:
    """What is known of steps on a GPU beside their time.

    Args:
        took: by name, seconds round by round, of `_calls` and of the products.
        steps: by name.
        sizes: of the products.

    Returns:
        `plain_seconds`, quartiles of steps launched from Python; `operations` of a step;
        `matrix_rate` in operations per second at the `size` of matrices that is fastest;
        `utilisation`, quartiles of the share of it that a step reaches.
    """
    size, rate = matrix_rate({n: took[f"products of {n}"] for n in sizes})
    counted = {name: operations(whole.step) for name, whole in steps.items()}
    return {
        "plain_seconds": {name: quartiles(took[f"plain {name}"]) for name in steps},
        "operations": counted,
        "matrix_rate": {"size": size, "operations_per_second": rate},
        "utilisation": {
            name: quartiles([counted[name] / (seconds * rate) for seconds in took[name]])
            for name in steps
            if name in took
        },
    }


def measure(setting: Setting) -> dict:
    """Time every contender and every piece, and return a record.

    It holds medians and quartiles: `ratios` and `seconds` of whole steps, `floors` as ratios by
    mask, `pieces` in seconds, `memory` in bytes; why the `peer` took no part, or None. On a GPU
    also what `limited` returns.

    Raises:
        ConfigError: the device is not there.
    """
    device, config = usable_device(setting.device), setting.config
    with as_in_training(setting.threads, device):
        steps, parts = whole_steps(config, device), pieces(config, device)
        bytes_taken = memory(steps, device)
        by_size = products(config.precision, device) if on_gpu(device) else {}
        limits = {f"products of {n}": call for n, call in by_size.items()}
        took = interleaved(_calls(steps, parts, device) | limits, setting.rounds, device)
        beside = limited(took, steps, list(by_size)) if on_gpu(device) else {}
    return {
        "run_id": name(config, device),
        "setting": vars(setting),
        "network": network(config),
        "ratios": {name: ratio(took, name) for name in steps},
        "floors": _floors(took, steps),
        "seconds": {name: quartiles(took[name]) for name in steps if name in took},
        "pieces": {name: quartiles(took[name]) for name in parts},
        "memory": bytes_taken,
        "peer": missing_peer(config),
        **beside,
        "provenance": made_by(device, cuda_graphs.status(cuda_graphs.WORTH, device)),
    }


def name(config: RunConfig, device: torch.device) -> str:
    """A file per network and kind of device; SGD and fp32 are not named."""
    found = network(config)
    unusual = [v for v in (config.optimizer, config.precision) if v not in ("sgd", "fp32")]
    size = f"{found['image_size']}px-batch{config.batch_size}"
    return "-".join(["step", config.model, size, *unusual, device.type])


def table(record: dict) -> str:
    """A record as text: a line per step and per piece, then the memory of each step."""
    rounds, replayed = record["setting"]["rounds"], record["provenance"].get("replayed")
    how = {True: ", replayed", False: ""}.get(replayed, f", not replayed: {replayed}")
    lines = [f"{record['run_id']}, {rounds} rounds{how}, ratio to base (floor):"]
    lines += [_line(record, name) for name in record["ratios"]]
    if missing := record.get("peer"):
        lines.append(f"  {PEER:24} {missing}")
    for name, (_, median, _) in record["pieces"].items():
        lines.append(f"  {name:42} {1000 * median:9.2f} ms")
    if limit := record.get("matrix_rate"):
        rate, precision = limit["operations_per_second"] / 1e12, record["network"]["precision"]
        lines.append(
            f"  products of {limit['size']} x {limit['size']}: {rate:.1f} Tflop/s {precision}"
        )
    return "\n".join(lines + _memory_lines(record.get("memory")))


def _line(record: dict, name: str) -> str:
    """A whole step: ratio, milliseconds, floor; on a GPU as launched from Python, share of rate."""
    low, median, high = record["ratios"][name]
    line = f"  {name:24} {median:5.2f}  [{low:.2f}, {high:.2f}]"
    if name in record["seconds"]:
        line += f" {1000 * record['seconds'][name][1]:9.2f} ms"
    if name in record["floors"]:
        line += f"  ({record['floors'][name][1]:.2f})"
    if name in record.get("plain_seconds", {}):
        line += f"  {1000 * record['plain_seconds'][name][1]:9.2f} ms from Python"
    if name in record.get("utilisation", {}):
        line += f"  {100 * record['utilisation'][name][1]:.1f} % of the matrix rate"
    return line


def _memory_lines(found: dict | None) -> list[str]:
    if found is None:  # an older record
        return []
    lines = [f"memory (all parameters: {found['parameters'] / 1e6:.3f} MB):"]
    for name, peak in found["peak"].items():
        kept = found["between"].get(name)
        beside = "" if kept is None else f", {kept / 1e6:.3f} MB kept between passes"
        lines.append(f"  {name:42} {peak / 1e6:9.3f} MB{beside}")
    return lines
