"""Runs per hour by the number of worker processes that share one device.

All workers are started and have done a run each before anything is timed, as imports and the start
of CUDA are paid once. Then numbers of workers take turns, every other round backwards, so that a
machine whose speed drifts drifts for all; those whose turn it is not do nothing.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

from samlib.bench.growth import seconds_of
from samlib.bench.timing import at_least_one, made_by, network, over, quartiles, replayed_of
from samlib.campaign.jobs import RunJob
from samlib.campaign.local import LocalExecutor
from samlib.errors import ConfigError, SamlibError, choose
from samlib.records import journal, store
from samlib.records.results_folder import ResultsFolder
from samlib.study import profiles
from samlib.study.profile import Profile
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import usable_device

# By kind of device. An epoch of the quick profile has too few steps to be replayed on a GPU.
_WORKERS = {"cpu": (1, 2), "cuda": (1, 2, 4, 8)}
_PROFILE = {"cpu": "quick", "cuda": "cifar100-45k"}
_TRIES = 20  # handing out runs until every worker has had one


@dataclass(frozen=True)
class Setting:
    """What is packed: short runs of the base optimizer of a profile, seed by seed.

    Attributes:
        profile: whose network, data and batch size; None is quick on a CPU and cifar100-45k on a
            GPU.
        problem: which of its networks; None is the headline's.
        epochs: of a run.
        images: in the training set; None is the profile's.
        workers: numbers of worker processes, one CPU thread each; None is 1 and 2 on a CPU, up to
            8 on a GPU.
        runs: per worker, handed out together.
        rounds: how often every number is timed.
        device: cpu or cuda.
    """

    profile: str | None = None
    problem: str | None = None
    epochs: int = 4
    images: int | None = None
    workers: tuple[int, ...] | None = None
    runs: int = 8
    rounds: int = 4
    device: str = "cpu"

    def __post_init__(self):
        at_least_one(self, "epochs", "images", "runs", "rounds")
        if not self.counts or min(self.counts) < 1:
            raise ConfigError("workers must be numbers of processes, each at least 1")
        _ = self.config  # refuses an unknown profile or problem

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of workers, each once, ascending."""
        given = _WORKERS.get(self._kind, (1,)) if self.workers is None else self.workers
        return tuple(sorted(set(given)))

    @property
    def _kind(self) -> str:
        return self.device.split(":")[0]

    @property
    def _profile(self) -> Profile:
        return profiles.get(self.profile or _PROFILE.get(self._kind, "quick"))

    @property
    def _problem(self) -> str:
        return self.problem or self._profile.headline

    @property
    def name(self) -> str:
        """Of the record: a file per network of a profile and kind of device."""
        return f"packing-{self._profile.name}-{self._problem}-{self._kind}"

    @property
    def config(self) -> RunConfig:
        """A run, but for its seed."""
        base = self._profile.bases[choose("problem", self._problem, self._profile.bases)]
        return base.replace(
            epochs=self.epochs,
            warmup_epochs=min(base.warmup_epochs, self.epochs - 1),
            train_size=self.images or base.train_size,
        )


class _Gang:
    """Some workers, their campaign, and the runs they are handed, each of another seed."""

    def __init__(self, campaign: ResultsFolder, workers: int, setting: Setting):
        self.workers = workers
        self._campaign, self._setting = campaign, setting
        self._seeds = count()
        self._executor = LocalExecutor(campaign, workers=workers, device=setting.device)

    def __enter__(self) -> "_Gang":
        self._executor.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._executor.__exit__(*exception)

    def run(self, runs: int) -> list[str]:
        """Train so many runs; returns their ids.

        Raises:
            SamlibError: one failed.
        """
        seeds = islice(self._seeds, runs)
        jobs = [RunJob(self._setting.config.replace(seed=seed)) for seed in seeds]
        failed = self._executor.run(jobs).failed
        if failed:
            raise SamlibError(f"a run failed: {next(iter(failed.values()))}")
        return [job.name for job in jobs]

    def warm_up(self) -> None:
        """Have every worker do a run: one that is up early may take another's."""
        seen = set()
        for _ in range(_TRIES):
            seen |= {journal.worker(self._campaign, run_id) for run_id in self.run(self.workers)}
            if len(seen) >= self.workers:
                return

    def timed(self, runs: int) -> tuple[float, list[dict]]:
        """Seconds of that many runs together, and their records."""
        begun = time.perf_counter()
        ids = self.run(runs)
        took = time.perf_counter() - begun
        return took, [store.read_one(self._campaign.runs / f"{run_id}.json") for run_id in ids]


def turns(counts: tuple[int, ...], rounds: int) -> Iterator[int]:
    """Whose turn it is: round by round, every other one backwards.

    >>> list(turns((1, 2, 4), 2))
    [1, 2, 4, 4, 2, 1]
    """
    for number in range(rounds):
        yield from counts[:: -1 if number % 2 else 1]


def packed(workers: int, runs: int, took: list[float], least: list[float]) -> dict:
    """What some workers achieve.

    Args:
        workers: how many.
        runs: of each turn.
        took: seconds of each turn.
        least: runs per hour of the smallest number of workers, turn by turn.

    Returns:
        Quartiles of `runs_per_hour`, and of its ratio to `least` in the same round, `gain`.
    """
    rates = [3600 * runs / seconds for seconds in took]
    return {
        "workers": workers,
        "runs": runs,
        "runs_per_hour": quartiles(rates),
        "gain": over(rates, least),
    }


def measure(setting: Setting) -> dict:
    """Time every number of workers, and return a record.

    Raises:
        ConfigError: the device is not there.
        SamlibError: a run failed.
    """
    device = usable_device(setting.device)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        gangs = {}
        for workers in setting.counts:
            campaign = ResultsFolder(Path(folder) / str(workers))
            gangs[workers] = stack.enter_context(_Gang(campaign, workers, setting))
            gangs[workers].warm_up()
        took: dict[int, list[float]] = {workers: [] for workers in gangs}
        made: dict[int, list[dict]] = {workers: [] for workers in gangs}
        for workers in turns(setting.counts, setting.rounds):
            seconds, found = gangs[workers].timed(workers * setting.runs)
            took[workers].append(seconds)
            made[workers] += found
    least = [3600 * setting.counts[0] * setting.runs / s for s in took[setting.counts[0]]]
    return {
        "run_id": setting.name,
        "setting": vars(setting),
        "network": network(setting.config),
        "packed": [
            packed(n, n * setting.runs, took[n], least)
            | {"seconds": seconds_of(made[n], n * sum(took[n]) / len(made[n]))}
            for n in setting.counts
        ],
        "provenance": made_by(device, replayed_of(chain.from_iterable(made.values()))),
    }


def table(record: dict) -> str:
    """A record as text: a line per number of workers."""
    s, found = record["setting"], record["provenance"]
    lines = [
        f"{record['run_id']} on {found['gpu'] or found['processor']}, {s['rounds']} rounds of "
        f"{s['runs']} runs of {s['epochs']} epochs per worker:"
    ]
    for entry in record["packed"]:
        low, median, high = entry["runs_per_hour"]
        parts = ", ".join(f"{what} {took:.2f} s" for what, took in entry["seconds"].items())
        lines.append(
            f"  {entry['workers']:2} workers: {median:.0f} [{low:.0f}, {high:.0f}] runs per hour, "
            f"{entry['gain'][1]:.2f} times the first line's; per run {parts}"
        )
    return "\n".join(lines)
