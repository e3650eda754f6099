"""Campaigns killed, starved and damaged on purpose, and continued: no run may be lost or wrong.

    python tests/torture.py --kills 50 --seed 0

Every fault is done to a campaign of `tiny_campaign` in a folder of its own. Then the same command
continues it, and its records are held against those of a campaign that nothing happened to. The
last line counts the faults, the runs that are not there afterwards or were thrown away, and the
records with other numbers.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from helpers import without_times

from samlib.data import datasets
from samlib.data.arrays import Arrays, canonical
from samlib.data.info import INFO
from samlib.errors import DataMissing
from samlib.measures import measurement
from samlib.records import journal, store
from samlib.records.results_folder import ResultsFolder

HERE = Path(__file__).resolve().parent
PATIENCE = 300.0  # seconds after which a campaign counts as hanging


class Skipped(Exception):
    """A fault that this system does not let us make."""


class Process:
    """One command on a folder of results, in a session of its own."""

    def __init__(self, program: Path, results: Path, fault: str | None = None):
        self.campaign = ResultsFolder(results / "tiny")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (a pipe would wait for the workers)
        command = [sys.executable, program, "run", "--profile", "tiny", "--workers", "2"]
        self._process = subprocess.Popen(
            [*command, "--results", results],
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | ({"SAMLIB_FAULT": fault} if fault else {}),
        )
        self.pid = self._process.pid

    @property
    def code(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    @property
    def said(self) -> str:
        """Everything that was printed."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """The exit status, None if it still runs after `seconds`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def until(self, happened: Callable[[], object]) -> bool:
        """Wait for something; False if the command ended before."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            if self.code is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def workers(self) -> list[int]:
        """Its worker processes (the resource tracker of multiprocessing is not one)."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                tracker = b"resource_tracker" in (folder / "cmdline").read_bytes()
            except OSError:  # gone meanwhile
                continue
            if parent == self.pid and not tracker:
                found.append(int(folder.name))
        return found

    def kill(self, pid: int) -> None:
        """`kill -9` one of its processes."""
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        if pid == self.pid:
            self._process.wait()

    def end(self) -> None:
        """Kill it and its workers at once, if it still runs."""
        if self.code is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        self._said.close()


class Bench:
    """A folder for campaigns, what they must come to, and the count of faults and losses."""

    def __init__(self, folder: Path, seed: int = 0):
        self.folder, self.random = folder, random.Random(seed)
        self.injected = self.lost = self.wrong = 0
        self._processes: list[Process] = []
        # Of its own: records tell the code that made them, which may be edited meanwhile.
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(HERE.parent / "samlib", folder / "code" / "samlib", ignore=ignored)
        self._program = Path(shutil.copy(HERE / "tiny_campaign.py", folder / "code"))
        self.complete = folder / "complete"
        begun = time.monotonic()
        process = self.start(self.complete)
        assert process.wait() == 0, process.said
        self.seconds = time.monotonic() - begun
        self.expected = numbers(self.complete)
        assert len(self.expected) == 12, sorted(self.expected)

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *exception) -> None:
        for process in self._processes:
            process.end()

    def start(self, results: Path, fault: str | None = None) -> Process:
        """Begin or continue a campaign; see `Process`."""
        process = Process(self._program, results, fault)
        self._processes.append(process)
        return process

    def fresh(self) -> Path:
        """A folder for the results of a new campaign."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def copy(self) -> Path:
        """The complete campaign once more, to be damaged."""
        results = self.fresh()
        shutil.copytree(self.complete, results, dirs_exist_ok=True)
        return results

    def judge(self, results: Path) -> None:
        """Count what a campaign has lost, and what it has wrong, against the undisturbed one."""
        found = numbers(results)
        self.lost += len(self.expected.keys() - found.keys())
        self.wrong += sum(self.expected.get(name) != text for name, text in found.items())

    def complete_and_judge(self, results: Path) -> str:
        """Continue a campaign to its end and judge it; returns what was printed."""
        process = self.start(results)
        assert process.wait() == 0, f"the campaign did not complete: {process.said}"
        self.judge(results)
        return process.said


def numbers(results: Path) -> dict[str, str]:
    """What must repeat bit for bit of every good record, by the file's place in the campaign."""
    campaign = ResultsFolder(results / "tiny")
    runs = store.read(campaign.runs)
    kinds = {"runs": runs} | measurement.read(campaign, runs)
    found = {}
    for kind, kept in kinds.items():
        for run_id, record in kept.items():
            rest = without_times(record)
            rest.pop("of", None)  # the checksum of a record with times; `read` has compared it
            found[f"{kind}/{run_id}"] = json.dumps(rest, sort_keys=True)
    return found


# --- the faults: each counts what it does, and returns what there is to say ----------------------


def kills(bench: Bench, count: int) -> str:
    """Kill parents and workers at random moments, through as many campaigns as that takes."""
    parents = campaigns = continued = done = 0
    while done < count:
        results, campaigns = bench.fresh(), campaigns + 1
        kept: dict[Path, bytes] = {}
        process = bench.start(results)
        while process.code is None or process.code == 1:  # 1: a run's worker was killed thrice
            if process.code == 1:
                process = bench.start(results)
            if done == count:
                assert process.wait() is not None, f"hangs: {process.said}"
                continue
            if bench.random.random() < 0.8:  # else also while everything starts, or ends
                process.until(lambda p=process: journal.running(p.campaign))
            process.wait(bench.random.uniform(0, bench.seconds / 5))
            if process.code is not None:
                continue
            for path in process.campaign.runs.glob("*.json"):
                kept.setdefault(path, path.read_bytes())
            victim = bench.random.choice([process.pid, *process.workers()[:1]])
            process.kill(victim)
            done += 1
            if victim == process.pid:
                parents += 1
                process = bench.start(results)
        assert process.code == 0, process.said
        bench.judge(results)
        bench.lost += sum(path.read_bytes() != content for path, content in kept.items())
        left = [path.name for path in results.rglob("*.tmp")]
        assert not left, f"half-written files are left: {left}"
        logs = process.campaign.logs.glob("*.log")
        continued += sum(log.read_text().count("continued after epoch") for log in logs)
    bench.injected += count
    return (
        f"{count} kills, {parents} of them of the parent, in {campaigns} campaigns; "
        f"{continued} times a run continued from a checkpoint"
    )


def two_at_once(bench: Bench) -> str:
    """Start two campaigns on one folder, then kill the one that has it."""
    results = bench.fresh()
    pair = [bench.start(results), bench.start(results)]
    holder, other = pair if pair[0].until(lambda: pair[1].code is not None) else pair[::-1]
    message = f"is being written by process {holder.pid}: wait for it or stop it"
    assert other.wait() == 2, other.said
    assert message in other.said
    assert len(other.said.splitlines()) == 1, other.said
    assert holder.until(lambda: journal.running(holder.campaign)), holder.said
    holder.kill(holder.pid)
    bench.injected += 1
    bench.complete_and_judge(results)
    return "the second says who holds it; the holder's death frees it"


def truncated_checkpoints(bench: Bench) -> str:
    """Kill all at once and cut the newest checkpoints short."""
    results = bench.fresh()
    process = bench.start(results)
    folder = process.campaign.path / "checkpoints"
    assert process.until(lambda: len(list(folder.glob("*.previous"))) > 1), process.said
    process.end()
    cut = list(folder.glob("*.pt"))
    for path in cut:
        os.truncate(path, bench.random.randrange(path.stat().st_size))
    bench.injected += len(cut)
    said = bench.complete_and_judge(results)
    assert said.count("is damaged and is not used") == len(cut), said
    return f"{len(cut)} checkpoints cut short"


def flipped_bits(bench: Bench) -> str:
    """Flip a bit in records of runs and measurements, and in final weights."""
    results = bench.copy()
    folder = results / "tiny"
    chosen = bench.random.sample(sorted(folder.glob("runs/*.json")), 3)
    chosen += bench.random.sample(sorted(folder.glob("measures/*/*.json")), 1)
    for path in chosen:
        flip(path, bench.random)
    for path in folder.glob("weights/*none*"):
        flip(path, bench.random)
    bench.injected += len(chosen)
    made_again = bench.complete_and_judge(results).count("; moved to ")
    return f"of {len(chosen)} records {made_again} were set aside and made again"


def flip(path: Path, draw: random.Random) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def flipped_cache(bench: Bench, count: int = 300) -> str:
    """Flip a bit of a data cache: it is refused, or the arrays are the same."""
    with small_cache(bench.fresh()) as (path, arrays):
        good, refused = path.read_bytes(), 0
        for _ in range(count):
            path.write_bytes(good)
            flip(path, bench.random)
            refused += not loads_alike(path, arrays)
    bench.injected += count
    return f"{count} bits of a data cache flipped: {refused} refused, the others harmless"


@contextlib.contextmanager
def small_cache(folder: Path) -> Iterator[tuple[Path, Arrays]]:
    """Fashion-MNIST with six images: its cache's path and its arrays."""
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (6, 28, 28, 1), np.uint8), draw.integers(0, 10, 6)
    classes = np.array([f"class {i}" for i in range(10)])
    arrays = canonical(Arrays(images[:4], labels[:4], images[4:], labels[4:], classes))
    info = dataclasses.replace(INFO["fashion_mnist"], train_count=4, test_count=2)
    np.savez(folder / "fashion_mnist.npz", **vars(arrays))
    with mock.patch.dict(INFO, fashion_mnist=info):
        yield folder / "fashion_mnist.npz", arrays


def loads_alike(path: Path, arrays: Arrays) -> bool:
    """Whether a cache is read; what is read must then be these arrays."""
    datasets._read.cache_clear()  # it knows a file by its time, which may not have moved on
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = datasets.load("fashion_mnist", path.parent)
    except DataMissing:
        return False
    for name, array in vars(arrays).items():
        assert np.array_equal(getattr(found, name), array), f"{name} was changed unnoticed"
    return True


def out_of_memory(bench: Bench) -> str:
    """Let workers run out of memory in the middle of a run."""
    results = bench.fresh()
    process = bench.start(results, fault="memory")
    assert process.wait() == 1, process.said
    failed = process.said.count("\nfailed: ")
    assert failed, process.said
    bench.injected += 1
    bench.complete_and_judge(results)
    return f"a worker out of memory: {failed} runs told as failed, then made"


def clock_set_back(bench: Bench) -> str:
    """Continue a campaign whose files are of the future, with a clock that runs backwards."""
    results = bench.copy()
    folder = results / "tiny"
    for path in bench.random.sample(sorted(folder.glob("runs/*.json")), 3):
        path.unlink()
    kept = {path: path.read_bytes() for path in folder.glob("runs/*.json")}
    for path in folder.rglob("*"):
        os.utime(path, (2**32, 2**32))  # the year 2106
    process = bench.start(results, fault="clock")
    assert process.wait() == 0, process.said
    bench.injected += 1
    bench.judge(results)
    bench.lost += sum(path.read_bytes() != content for path, content in kept.items())
    return "the clock running backwards, files of the future"


def fill(folder: Path) -> Path:
    """Leave no free byte on a disk; returns the file that takes them."""
    with open(folder / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return folder / "ballast"


def full_disk(bench: Bench) -> str:
    """Start a campaign on a disk without a free byte, and fill the disk of one that runs."""
    with small_disk(bench.fresh(), "size=16m") as (results, _):
        ballast = fill(results)
        process = bench.start(results)
        stops_for_space(process)
        ballast.unlink()
        process = bench.start(results)
        done = process.campaign.runs
        assert process.until(lambda: len(list(done.glob("*.json"))) > 1), process.said
        fill(results)
        stops_for_space(process)
        there = len(numbers(results))
        ballast.unlink()
        bench.injected += 2
        bench.complete_and_judge(results)
    return f"no free byte at the start; then the disk full after {there} records"


def stops_for_space(process: Process) -> None:
    """Check that a campaign ends by saying that the disk is full."""
    assert process.wait() == 2, process.said
    assert "the disk is full: free some space" in process.said.splitlines()[-1], process.said
    assert "Traceback" not in process.said, process.said


def read_only(bench: Bench) -> str:
    """Continue a campaign in a folder that cannot be written."""
    with small_disk(bench.fresh(), "size=64m") as (results, remount):
        shutil.copytree(bench.complete, results, dirs_exist_ok=True)
        for path in bench.random.sample(sorted(results.glob("tiny/runs/*.json")), 2):
            path.unlink()
        for path in results.glob("tiny/measures/*/*.json"):
            flip(path, bench.random)
        remount("ro")
        process = bench.start(results)
        assert process.wait() == 2, process.said
        assert process.said.count("\n") == 1, process.said
        assert "Read-only file system" in process.said, process.said
        bench.injected += 1
        remount("rw")
        bench.complete_and_judge(results)
    return "a read-only folder is told in one line"


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A tmpfs of its own at a folder, and a function that mounts it anew with other options."""

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            raise Skipped("this user may not mount a file system") from None

    mount(size)
    try:
        yield folder, lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


FAULTS = (
    two_at_once,
    truncated_checkpoints,
    flipped_bits,
    flipped_cache,
    full_disk,
    read_only,
    out_of_memory,
    clock_set_back,
)


def main() -> int:
    """Every fault once, and the kills; the exit status is 0 if nothing came of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="default: 50")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default: 0)")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # a damaged record is counted below
    unexpected = 0
    with tempfile.TemporaryDirectory() as folder, Bench(Path(folder), asked.seed) as bench:
        print(f"undisturbed: {len(bench.expected)} records in {bench.seconds:.0f} s", flush=True)
        for fault in (*FAULTS, lambda bench: kills(bench, asked.kills)):
            name = getattr(fault, "__name__", "").replace("<lambda>", "kills").replace("_", " ")
            try:
                said = fault(bench)
            except Skipped as reason:
                said = f"skipped: {reason}"
            except Exception as error:
                said, unexpected = f"NOT AS IT SHOULD BE: {error!r}", unexpected + 1
            print(f"{name}: {said}", flush=True)
        print(
            f"{bench.injected} faults injected, {bench.lost} runs lost, {bench.wrong} records wrong"
        )
        return int(bool(unexpected or bench.lost or bench.wrong))


if __name__ == "__main__":
    sys.exit(main())
