"""What a larger study costs besides training: runs per hour by workers, reading, tables, disk.

Campaigns of the smoke profile are timed from the moment every worker has done its first run, as
imports are paid once. Records to read are copies of one of theirs under other names and seeds.
"""

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from samlib.campaign import ray_cluster
from samlib.campaign.runner import run_missing
from samlib.errors import ConfigError
from samlib.provenance import provenance
from samlib.records import store
from samlib.records.frame import frame
from samlib.records.results_folder import ResultsFolder
from samlib.study import plan, profiles
from samlib.study.cells import Cell, Needs, all_cells, count_runs

_SEEDS = 10  # of the copies: so many of them are one row of the table


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        sizes: numbers of records that are read.
        cells: how many cells of the chapter on rho a campaign runs.
        workers: worker processes, campaign by campaign.
        nodes: simulated nodes of one more campaign, where Ray is installed; 0: none.
    """

    sizes: tuple[int, ...] = (10, 1_000, 100_000)
    cells: int = 6
    workers: tuple[int, ...] = (1, 2)
    nodes: int = 2

    def __post_init__(self) -> None:
        """Raises ConfigError if a campaign has no run left when every worker has done one."""
        runs = count_runs(_cells(self.cells), {})
        if max(*self.workers, self.nodes) >= runs:
            raise ConfigError(f"workers must be fewer than the {runs} runs of a campaign")
        if len({*self.workers}) < len(self.workers):
            raise ConfigError("workers must be numbers of processes, each once")


def _cells(count: int) -> list[Cell]:
    return all_cells([plan.rho_sweep(profiles.get("smoke"))])[:count]


def measure(setting: Setting) -> dict:
    """Run the campaigns, read the records, and return a record.

    Raises:
        RuntimeError: a run failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        campaigns = [
            _campaign(ResultsFolder(place / f"local-{workers}"), setting.cells, "local", workers)
            for workers in setting.workers
        ]
        if setting.nodes and importlib.util.find_spec("ray"):
            ray = ResultsFolder(place / "ray")
            campaigns.append(_campaign(ray, setting.cells, "ray", setting.nodes))
        first = ResultsFolder(place / f"local-{setting.workers[0]}")
        example = next(iter(store.read(first.runs).values()))
        return {
            "run_id": "growth-cpu",
            "setting": vars(setting),
            "campaigns": campaigns,
            "bytes_per_run": {
                part: _size(first.path / part) / campaigns[0]["runs"]
                for part in ("runs", "weights", "logs")
            },
            "reading": [_reading(place / "copies", example, size) for size in setting.sizes],
            "provenance": provenance() | {"replayed": False},
        }


def _campaign(campaign: ResultsFolder, cells: int, executor: str, workers: int) -> dict:
    """One campaign: runs per hour, and seconds per run beside its epochs."""
    needs = [Needs(_cells(cells))]
    with ray_cluster.simulated(workers) if executor == "ray" else nullcontext():
        begun = time.time()
        outcome = run_missing(needs, campaign, workers=workers, quiet=True, executor=executor)
    if outcome.failed:
        raise RuntimeError(f"a run failed: {next(iter(outcome.failed.items()))}")
    ends = sorted((path.stat().st_mtime, path) for path in campaign.runs.glob("*.json"))
    warm = [store.read_one(path) for _, path in ends[workers:]]
    took = (ends[-1][0] - ends[workers - 1][0]) / len(warm)
    return {
        "executor": executor,
        "workers": workers,
        "runs": len(ends),
        "start": ends[workers - 1][0] - begun,
        "runs_per_hour": 3600 / took,
        "seconds": seconds_of(warm, workers * took),
    }


def seconds_of(runs: Collection[dict], took: float) -> dict[str, float]:
    """Where the mean time of a run goes, what is around it included.

    Args:
        runs: their records.
        took: seconds of one worker per run.
    """
    times = [record["times"] for record in runs]
    training = statistics.mean(sum(t["epochs"]) for t in times)
    inside = statistics.mean(t["wall"] for t in times) - training
    return {
        "epochs": training,
        "set-up and evaluation": inside,
        "around the run": took - inside - training,
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _reading(folder: Path, example: dict, size: int) -> dict:
    """Time and memory of reading some copies of a record, and of a table made from them."""
    _copy(folder, example, size)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        found = fresh.submit(_read, folder).result()
    return {"records": size, "bytes_per_record": _size(folder) / size} | found


def _copy(folder: Path, example: dict, size: int) -> None:
    """Fill a folder up to that many records; unlike a campaign's they are not flushed to disk."""
    folder.mkdir(exist_ok=True)
    result = {k: v for k, v in example.items() if k not in ("format", "checksum")}
    for number in range(size):
        path = folder / f"copy-{number:06d}.json"
        if not path.exists():
            changes = {"seed": number % _SEEDS, "rho": number // _SEEDS / 1000}
            of_copy = {"run_id": path.stem, "config": example["config"] | changes}
            path.write_bytes(store.encode(result | of_copy))


def _read(folder: Path) -> dict:
    before = _memory("VmRSS")
    begun = time.perf_counter()
    found = store.read(folder)
    read = time.perf_counter()
    after = _memory("VmRSS")
    table = frame(found)
    table = table.groupby(["model", "geometry", "mask", "rho"])["test_accuracy"].agg(
        ["mean", "std", "count"]
    )
    return {
        "seconds": read - begun,
        "table_seconds": time.perf_counter() - read,
        "table_rows": len(table),
        "memory": None if before is None else after - before,
    }


def _memory(name: str) -> int | None:
    """A number of bytes from what Linux says of this process; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def table(record: dict) -> str:
    """A record as text."""
    lines = [f"growth on {record['provenance']['processor']}:"]
    for c in record["campaigns"]:
        where = "simulated nodes" if c["executor"] == "ray" else "workers"
        parts = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in c["seconds"].items())
        lines.append(
            f"  {c['workers']} {where}: {c['runs_per_hour']:.0f} runs per hour once started, "
            f"in {c['start']:.1f} s; per run {parts}"
        )
    sizes = ", ".join(f"{n / 1024:.1f} kB {part}" for part, n in record["bytes_per_run"].items())
    lines.append(f"  a run on disk: {sizes}")
    for r in record["reading"]:
        memory = "" if r["memory"] is None else f", {r['memory'] / 2**20:.0f} MB"
        lines.append(
            f"  {r['records']} records of {r['bytes_per_record'] / 1024:.1f} kB: read in "
            f"{r['seconds']:.2f} s{memory}; a table of {r['table_rows']} rows in "
            f"{r['table_seconds']:.2f} s"
        )
    return "\n".join(lines)
