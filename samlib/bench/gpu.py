"""All that a GPU is asked, in one go: `python -m samlib bench`.

Network by network, steps replayed and launched from Python against their floors and the matrix
rate, and an epoch against the plain loop with TF32 and without. Each is a record of its own kind;
this kind's record holds what they answer. A part that this code has measured on this device is not
measured again, so that the same command continues: remove its record to have it measured anew.
"""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from samlib import bench, models
from samlib.bench import epoch, step
from samlib.bench.timing import made_by, replayed_of
from samlib.errors import ConfigError, choose
from samlib.records.store import RecordError, read_one, write
from samlib.trainer import cuda_graphs
from samlib.trainer.one_run import usable_device

# From small to large: the evidence's network, and the paper's at the end.
NETWORKS = (
    ("wrn10_8_patch4", 128),
    ("resnet56", 128),
    ("wrn16_4", 128),
    ("wrn28_10", 128),
    ("wrn28_10", 512),
)
# What is aimed at, by judgement: of an epoch of WRN-28-10 and of every network's SAM-ON.
TARGETS = {
    "plain loop without TF32 / ours, wrn28_10:128": ("at least", 5.0),
    "plain loop / ours, wrn28_10:128": ("at least", 2.0),
    "share of the matrix rate, wrn28_10:512": ("at least", 0.45),
    "SAM-ON / its floor": ("at most", 1.05),
}


@dataclass(frozen=True)
class Setting:
    """What is asked.

    Attributes:
        networks: models of the zoo, each with its batch size.
        images: in an epoch; None is 12,800, which are 25 batches of 512.
        rounds: how often a step is timed; an epoch a fifth as often.
        device, threads: where; threads on the CPU.
    """

    networks: tuple[tuple[str, int], ...] = NETWORKS
    images: int | None = None
    rounds: int = 10
    device: str = "cuda"
    threads: int = 1

    def __post_init__(self):
        for model, batch_size in self.networks:
            choose("model", model, models.names())
            if batch_size < 1:
                raise ConfigError("a batch size must be at least 1")
        self.parts()  # refuses other values out of range

    def parts(self) -> list[tuple[ModuleType, step.Setting | epoch.Setting]]:
        """Kind and setting of every record: of each network a step and an epoch."""
        found = []
        for model, batch_size in self.networks:
            what = {"model": model, "batch_size": batch_size}
            what |= {"device": self.device, "threads": self.threads}
            rounds = max(1, self.rounds // 5) if self.rounds > 0 else self.rounds
            images = 12_800 if self.images is None else self.images
            found += [
                (step, step.Setting(rounds=self.rounds, **what)),
                (epoch, epoch.Setting(rounds=rounds, images=images, augment="basic", **what)),
            ]
        return found


def _measured(kind: ModuleType, setting: step.Setting | epoch.Setting, results: Path) -> dict:
    """A part's record, read or measured."""
    device = usable_device(setting.device)
    path = results / "bench" / f"{kind.name(setting.config, device)}.json"
    try:
        record = read_one(path)
    except (FileNotFoundError, RecordError):
        record = None
    steps = setting.count // setting.batch_size if kind is epoch else cuda_graphs.WORTH
    now = made_by(device, cuda_graphs.status(steps, device))
    same = ("source", "commit", "packages", "gpu", "processor", "replayed")
    known = record is not None and record["setting"] == vars(setting)
    if known and all(record["provenance"][name] == now[name] for name in same):
        return record
    return bench.run(kind, setting, results)[0]


def answers(records: list[dict]) -> dict[str, list[float]]:
    """What records of steps and epochs say, by question: quartiles."""
    found = {}
    for record in records:
        n = record["network"]
        name = f"{n['model']}:{n['batch_size']}"
        if "floors" in record:
            floor = record["floors"]["only_norm"][1]
            over = [ratio / floor for ratio in record["ratios"]["only_norm"]]
            found[f"SAM-ON / its floor, {name}"] = over
            continue
        for peer in ("plain loop", epoch.WITHOUT_TF32):
            if peer in record["ratios"]:
                found[f"{peer} / ours, {name}"] = record["ratios"][peer]
        found[f"share of the matrix rate, {name}"] = record["utilisation"]
    return found


def target(question: str) -> tuple[str, float] | None:
    """What is aimed at: at least or at most which value; None where nothing is."""
    return TARGETS.get(question) or TARGETS.get(question.split(",")[0])


def _line(question: str, values: list[float]) -> str:
    low, median, high = values
    line = f"  {question:52} {median:6.3f} [{low:.3f}, {high:.3f}]"
    if aim := target(question):
        bound, value = aim
        met = median >= value if bound == "at least" else median <= value
        line += f", {bound} {value:g}: {'met' if met else 'not met'}"
    return line


def run(setting: Setting, results: Path) -> tuple[dict, Path]:
    """Measure every part that has not been, and write the answers to `<results>/bench`.

    Raises:
        ConfigError: the device is not there.
    """
    device = usable_device(setting.device)
    records = []
    for kind, part in setting.parts():
        records.append(_measured(kind, part, results))
        print(kind.table(records[-1]), flush=True)
    record = {
        "run_id": f"gpu-{device.type}",
        "setting": vars(setting),
        "parts": [record["run_id"] for record in records],
        "answers": answers(records),
        "provenance": made_by(device, replayed_of(records)),
    }
    return record, write(results / "bench", record)


def table(record: dict) -> str:
    """A record as text: a line per question."""
    found = record["provenance"]
    where, replayed = found["gpu"] or found["processor"], found["replayed"]
    lines = [f"{record['run_id']} on {where}, steps replayed: {replayed}"]
    return "\n".join(lines + [_line(*answer) for answer in record["answers"].items()])
