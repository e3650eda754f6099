"""Worker processes: records do not depend on their number, and a death costs an attempt."""

import os
import signal
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from conftest import one_line, repeatable
from helpers import result

from samlib.campaign import local, runner
from samlib.campaign.jobs import ATTEMPTS, RunJob, run_job
from samlib.campaign.local import LocalExecutor, cores, default_workers
from samlib.errors import ConfigError
from samlib.files import DiskError
from samlib.measures.measurement import MeasureJob
from samlib.records import journal, store
from samlib.records.results_folder import OtherCode, ResultsFolder
from samlib.study import plan, profiles
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import train

TINY = {"train_size": 64, "validation_size": 20, "epochs": 2, "batch_size": 32}
CONFIGS = [
    RunConfig(**TINY, seed=0),
    RunConfig(**TINY, seed=1, geometry="l2", rho=0.1, mask="random", model="resnet8"),
    RunConfig(**TINY, seed=1, geometry="fisher", rho=0.1, mask="dynamic"),
]


def children_left():
    """Workers that this process has started and that are still there, by their ids.

    Not the processes from which multiprocessing forks or with which it keeps track of resources.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid() and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # gone meanwhile
            continue
    return found


def without_times(folder):
    return {run_id: repeatable(record) for run_id, record in store.read(folder).items()}


def test_the_largest_share_of_a_gpu_decides_how_many_workers_there_are(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 16)
    small, medium, large = (
        RunJob(RunConfig(model=model)) for model in ("resnet56", "wrn16_4", "wrn28_10")
    )
    assert default_workers("cuda", [small, small]) == 4
    assert default_workers("cuda:0", [small, medium]) == 2
    assert default_workers("cuda", [MeasureJob(medium.config, "sharpness")]) == 2
    assert default_workers("cuda", [small, large, medium]) == 1
    assert default_workers("cuda", []) == 1
    assert default_workers("cpu", [large]) == 16
    monkeypatch.setattr(local, "cores", lambda: 3)
    assert default_workers("cuda", [small]) == 3
    assert default_workers("cpu", [small]) == 3


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_no_more_workers_are_made_than_there_are_jobs(tmp_path, monkeypatch):
    """Each has files open, of which a process may have a thousand."""
    made = []

    class Worker:
        def __init__(self):
            made.append(self)

        def submit(self, *call):
            future = Future()
            future.set_result(None)
            return future

        def end(self, at_once):
            made.remove(self)

    monkeypatch.setattr(local, "_Worker", Worker)
    with LocalExecutor(ResultsFolder(tmp_path), workers=192) as executor:
        assert made == []
        for _ in range(3):
            assert len(executor.run(map(RunJob, CONFIGS[:2])).done) == 2
        assert len(made) == 2, "an idle one takes the next job"
    assert made == []


def test_workers_are_as_many_as_what_is_missing_lets_share_a_gpu(tmp_path, monkeypatch):
    asked = []

    def refused(*arguments, workers, **options):
        asked.append(workers)
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "cores", lambda: 16)
    monkeypatch.setattr(runner, "usable_device", lambda device: None)
    monkeypatch.setattr(runner, "LocalExecutor", refused)
    needs = [plan.introduction(profiles.get("quick"))]
    for given in (None, 3):
        with pytest.raises(KeyboardInterrupt):
            runner.run_missing(
                needs, ResultsFolder(tmp_path), workers=given, device="cuda", quiet=True
            )
    assert asked == [4, 3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_device_that_is_not_there_is_told_once_and_no_run_is_tried(tmp_path):
    folder = ResultsFolder(tmp_path)
    with pytest.raises(ConfigError, match="no CUDA GPU is available here") as caught:
        runner.run_missing([plan.introduction(profiles.get("quick"))], folder, device="cuda")
    one_line(caught)
    assert not folder.logs.exists()


def test_before_records_of_another_device_or_code_are_added_to_it_is_said(
    tmp_path, monkeypatch, capsys
):
    def refused(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "usable_device", lambda device: None)
    monkeypatch.setattr(runner, "LocalExecutor", refused)
    folder = ResultsFolder(tmp_path)
    store.write(folder.runs, result(0))
    for device in ("cpu", "cuda"):
        with pytest.raises(KeyboardInterrupt):
            runner.run_missing([plan.introduction(profiles.get("quick"))], folder, device=device)
        warnings = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
        assert "1 of the 1 existing records were made by other code" in warnings[0]
        assert [line.split(":")[1] for line in warnings[1:]] == [
            " 1 of the 1 records that are there were computed on a CPU and new ones are on a GPU"
        ] * (device == "cuda")


@pytest.mark.slow
def test_records_of_two_workers_are_those_of_this_process(tmp_path):
    missing = RunConfig(dataset="cifar10", seed=9)
    told, place = [], ResultsFolder(tmp_path)
    with LocalExecutor(place, workers=2, data_dir=tmp_path) as executor:
        outcome = executor.run(
            map(RunJob, [CONFIGS[0], missing, *CONFIGS[1:], RunConfig(seed=77)]),
            may_start=lambda job: job.config.seed != 77,
            on_done=lambda job, failure: told.append((job.name, failure)),
        )
    ids = [c.run_id for c in CONFIGS]
    assert sorted(outcome.done) == sorted(ids)
    assert outcome.skipped == [RunConfig(seed=77).run_id]
    assert list(outcome.failed) == [missing.run_id]
    reason = outcome.failed[missing.run_id]
    assert "prepare --dataset cifar10" in reason
    assert "\n" not in reason
    assert sorted(told) == sorted([(i, None) for i in ids] + [(missing.run_id, reason)])
    assert sorted(p.stem for p in place.runs.iterdir()) == sorted(ids)
    assert all(place.weights(i).exists() for i in ids)
    assert not any(place.checkpoint(i).exists() for i in ids)
    here = {c.run_id: repeatable({"format": store.FORMAT, **train(c)}) for c in CONFIGS}
    assert without_times(place.runs) == here
    assert not children_left()


@pytest.mark.slow
def test_a_killed_worker_costs_an_attempt_only(tmp_path):
    config = RunConfig(**TINY | {"epochs": 40, "eval_every": 40}, seed=3, model="resnet8")
    killed, told = [], ResultsFolder(tmp_path).log(config.run_id)

    def kill():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            training = told.exists() and "epoch 1/40" in told.read_text()
            for pid in children_left() if training else ():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                assert not list((tmp_path / "runs").glob("*"))
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    with LocalExecutor(ResultsFolder(tmp_path)) as executor:
        outcome = executor.run([RunJob(config)])
    killer.join()
    assert len(killed) == 1
    assert outcome.done == [config.run_id]
    assert not outcome.failed
    (record,) = store.read(tmp_path / "runs").values()
    assert record["status"] == "completed"
    assert [path.stem for path in (tmp_path / "weights").iterdir()] == [config.run_id]
    log = told.read_text()
    assert "its worker died (killed: out of memory?)" in log
    assert log.count("40 epochs on cpu") == 2
    assert journal.running(ResultsFolder(tmp_path)) == []
    worker = journal.worker(ResultsFolder(tmp_path), config.run_id)
    assert worker.split()[0] not in ("", str(killed[0])), "the last one that began it"
    assert journal.worker(ResultsFolder(tmp_path), "another") is None


def test_a_worker_killed_between_two_runs_costs_nothing(tmp_path):
    def kill_all(job, failure):
        for pid in children_left():
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)

    place = ResultsFolder(tmp_path)
    with LocalExecutor(place) as executor:
        outcome = executor.run(map(RunJob, CONFIGS[:2]), on_done=kill_all)
    assert outcome.done == [c.run_id for c in CONFIGS[:2]]
    assert "died" not in place.log(CONFIGS[1].run_id).read_text()


class Deadly:
    """A job that ends the process it is sent to."""

    name = "deadly"

    def record(self, folder):
        return folder.runs / "deadly.json"

    def __reduce__(self):
        return os._exit, (7,)


def write_and_die(path):
    path.write_text("whole")
    os._exit(7)


class DiesAfterIts(Deadly):
    """The same after its record is written."""

    def __init__(self, folder):
        self._record = self.record(folder)

    def __reduce__(self):
        return write_and_die, (self._record,)


@pytest.mark.parametrize("stale", [False, True])
def test_a_worker_that_dies_with_its_record_written_has_done_its_job(tmp_path, stale):
    place = ResultsFolder(tmp_path)
    place.runs.mkdir()
    if stale:
        Deadly().record(place).write_text("of a run that was done again")
    with LocalExecutor(place) as executor:
        outcome = executor.run([DiesAfterIts(place)])
    assert (outcome.done, outcome.failed) == (["deadly"], {})
    assert place.log("deadly").read_text().count("its worker died (exit code 7)") == 1


@pytest.mark.slow
def test_a_stale_record_is_not_the_work_of_a_worker_that_died(tmp_path):
    place = ResultsFolder(tmp_path)
    place.runs.mkdir()
    Deadly().record(place).write_text("of a run that was done again")
    with LocalExecutor(place) as executor:
        outcome = executor.run([Deadly()])
    assert outcome.failed == {"deadly": f"its worker died {ATTEMPTS} times (exit code 7)"}


@pytest.mark.slow
def test_a_job_that_kills_its_worker_is_blamed_each_time_and_no_other_is(tmp_path):
    place = ResultsFolder(tmp_path)
    with LocalExecutor(place, workers=2) as executor:
        outcome = executor.run([Deadly(), *map(RunJob, CONFIGS)])
    assert outcome.failed == {"deadly": f"its worker died {ATTEMPTS} times (exit code 7)"}
    assert place.log("deadly").read_text().count("its worker died (exit code 7)") == ATTEMPTS
    assert sorted(outcome.done) == sorted(c.run_id for c in CONFIGS)
    for config in CONFIGS:
        log = place.log(config.run_id).read_text()
        assert log.count("epochs on cpu") == 1
        assert "died" not in log


def test_a_worker_with_other_code_than_the_campaign_ends_it(tmp_path):
    with LocalExecutor(ResultsFolder(tmp_path)) as executor:
        executor._origin = executor._origin | {"packages": {"torch": "3.0"}}
        with pytest.raises(OtherCode, match="changed while the campaign ran") as caught:
            executor.run([RunJob(CONFIGS[0])])
    one_line(caught)
    assert list(tmp_path.iterdir()) == []


def test_an_unforeseen_error_is_one_line_and_a_log(tmp_path, monkeypatch):
    def broken(config, **options):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("samlib.campaign.jobs.train", broken)
    place = ResultsFolder(tmp_path)
    reason = run_job(RunJob(CONFIGS[0]), place, "cpu", None)
    log = place.log(CONFIGS[0].run_id)
    assert reason == "ZeroDivisionError: by zero"
    assert "in broken" in log.read_text()
    assert not place.runs.exists()


def test_a_full_disk_ends_the_campaign_with_one_line(tmp_path, full_disk):
    full_disk()
    with pytest.raises(DiskError, match="the disk is full: free some space") as caught:
        run_job(RunJob(CONFIGS[0]), ResultsFolder(tmp_path), "cpu", None)
    one_line(caught)
    assert list(tmp_path.glob("runs/*")) == []
