"""Worker processes: records do not depend on their number, and a death costs an attempt."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import one_line, repeatable

from samlib.campaign import runner
from samlib.campaign.jobs import ATTEMPTS, one_job
from samlib.campaign.local import LocalExecutor, default_workers
from samlib.files import DiskError
from samlib.measures.measurement import MeasureJob
from samlib.records import journal, results_folder, store
from samlib.records.results_folder import CampaignError, ResultsFolder
from samlib.study import plan, profiles
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import train

TINY = {"train_size": 64, "validation_size": 20, "epochs": 2, "batch_size": 32}
CONFIGS = [
    RunConfig(**TINY, seed=0),
    RunConfig(**TINY, seed=1, geometry="l2", rho=0.1, mask="random", model="resnet8"),
    RunConfig(**TINY, seed=1, geometry="fisher", rho=0.1, mask="dynamic"),
]


def children():
    """Processes this one has started, by their ids."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == os.getpid():
            found.append(int(stat.parent.name))
    return found


def children_left():
    """Workers still there (the resource tracker of multiprocessing is not one)."""
    return [
        pid
        for pid in children()
        if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def training(pid):
    """Whether a worker is past its imports: scikit-learn comes with the first data set."""
    try:
        return "sklearn" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def without_times(folder):
    return {run_id: repeatable(record) for run_id, record in store.read(folder).items()}


def test_the_largest_share_of_a_gpu_decides_how_many_workers_there_are(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    small, medium = RunConfig(model="resnet56"), RunConfig(model="wrn16_4")
    large = RunConfig(model="wrn28_10")
    assert default_workers("cuda", [small, small]) == 4
    assert default_workers("cuda:0", [small, medium]) == 2
    assert default_workers("cuda", [MeasureJob(medium, "sharpness")]) == 2
    assert default_workers("cuda", [small, large, medium]) == 1
    assert default_workers("cuda", []) == 1
    assert default_workers("cpu", [large]) == 16
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert default_workers("cuda", [small]) == 3
    assert default_workers("cpu", [small]) == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_workers("cuda", [small]) == 1


def test_workers_are_as_many_as_what_is_missing_lets_share_a_gpu(tmp_path, monkeypatch):
    asked = []

    def refused(*arguments, workers, **options):
        asked.append(workers)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(runner, "LocalExecutor", refused)
    needs = [plan.introduction(profiles.get("quick"))]
    for given in (None, 3):
        with pytest.raises(KeyboardInterrupt):
            runner.bring_up_to_date(
                needs, ResultsFolder(tmp_path), workers=given, device="cuda", quiet=True
            )
    assert asked == [4, 3]


@pytest.mark.slow
def test_records_do_not_depend_on_the_number_of_workers(tmp_path):
    missing = RunConfig(dataset="cifar10", seed=9)
    told, held = [], []
    for workers in (1, 2):
        place = ResultsFolder(tmp_path / str(workers))
        with LocalExecutor(place, workers=workers, data_dir=tmp_path) as executor:
            outcome = executor.run(
                [CONFIGS[0], missing, *CONFIGS[1:], RunConfig(seed=77)],
                may_start=lambda config: config.seed != 77,
                on_done=lambda config, failure: told.append((config.run_id, failure)),
            )
        ids = [c.run_id for c in CONFIGS]
        assert sorted(outcome.done) == sorted(ids)
        assert outcome.skipped == [RunConfig(seed=77).run_id]
        assert list(outcome.failed) == [missing.run_id]
        reason = outcome.failed[missing.run_id]
        assert "prepare --dataset cifar10" in reason
        assert "\n" not in reason
        assert sorted(told) == sorted([(i, None) for i in ids] + [(missing.run_id, reason)])
        told.clear()
        assert sorted(p.stem for p in place.runs.iterdir()) == sorted(ids)
        assert all(place.weights(i).exists() for i in ids)
        assert not any(place.checkpoint(i).exists() for i in ids)
        held.append(without_times(place.runs))
    assert held[0] == held[1]
    here = {"format": store.FORMAT, **train(CONFIGS[1])}
    assert held[0][CONFIGS[1].run_id] == repeatable(here)
    assert not children_left()


@pytest.mark.slow
def test_a_killed_worker_costs_an_attempt_only(tmp_path):
    config = RunConfig(**TINY | {"epochs": 40, "eval_every": 40}, seed=3, model="resnet8")
    killed, told = [], ResultsFolder(tmp_path).log(config.run_id)

    def kill():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            begun = told.exists() and "epochs on cpu" in told.read_text()
            for pid in children_left() if begun else ():
                if training(pid):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    assert not list((tmp_path / "runs").glob("*"))
                    return
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    with LocalExecutor(ResultsFolder(tmp_path), keep_weights=False) as executor:
        outcome = executor.run([config])
    killer.join()
    assert len(killed) == 1
    assert outcome.done == [config.run_id]
    assert not outcome.failed
    (record,) = store.read(tmp_path / "runs").values()
    assert record["status"] == "completed"
    assert not (tmp_path / "weights").exists()
    log = told.read_text()
    assert "its worker died (killed: out of memory?)" in log
    assert log.count("40 epochs on cpu") == 2
    assert journal.running(ResultsFolder(tmp_path)) == []
    worker = journal.worker(ResultsFolder(tmp_path), config.run_id)
    assert worker.split()[0] not in ("", str(killed[0])), "the last one that began it"
    assert journal.worker(ResultsFolder(tmp_path), "another") is None


def test_a_worker_killed_between_two_runs_costs_nothing(tmp_path):
    def kill_all(config, failure):
        for pid in children_left():
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)

    with LocalExecutor(ResultsFolder(tmp_path), keep_weights=False) as executor:
        outcome = executor.run(CONFIGS[:2], on_done=kill_all)
    assert outcome.done == [c.run_id for c in CONFIGS[:2]]


class Pool:
    """Worker processes that are not there: each job ends a while later, as it is told.

    Args:
        processes: how many there seem to be.
        deadly: the names of jobs whose worker dies.
        log: gets the names of all jobs in flight at every start.
    """

    def __init__(self, processes, deadly, log):
        self._processes = {i: SimpleNamespace(exitcode=-9) for i in range(processes)}
        self._deadly, self._log, self._flying = deadly, log, {}

    def submit(self, call, begun_by, job, *place):
        future = Future()
        self._flying[job.run_id] = future
        self._log.append(sorted(i for i, f in self._flying.items() if not f.done()))
        deadly = job.run_id in self._deadly
        end = threading.Timer(0.05 if deadly else 0.2, self._end, (future, deadly))
        end.daemon = True
        end.start()
        return future

    def _end(self, ended, deadly):
        for future in self._flying.values() if deadly else [ended]:
            if not future.done():
                future.set_exception(BrokenProcessPool()) if deadly else future.set_result(None)

    def shutdown(self, **options):
        pass


def pools(*made):
    """A `LocalExecutor` of these pools, one after the other, the last one as often as it takes."""
    left = deque(made)
    return type(
        "", (LocalExecutor,), {"_start": lambda _: left.popleft() if len(left) > 1 else left[0]}
    )


def named(*ids):
    return [SimpleNamespace(run_id=run_id) for run_id in ids]


def test_a_suspect_runs_alone_until_it_is_done(tmp_path):
    log, killer = [], {"killer"}  # in flight at every start after the first death
    executor = pools(Pool(3, killer, []), Pool(1, killer, log))
    outcome = executor(ResultsFolder(tmp_path), workers=3).run(named("a", "killer", "b", "c", "d"))
    assert sorted(outcome.done) == ["a", "b", "c", "d"]
    assert list(outcome.failed) == ["killer"]
    assert [flying for flying in log if "killer" in flying] == [["killer"]] * ATTEMPTS


def test_an_idle_workers_death_costs_the_run_beside_it_no_attempt(tmp_path):
    executor = pools(*(Pool(2, {"a"}, []) for _ in range(ATTEMPTS)), Pool(1, {}, []))
    place = ResultsFolder(tmp_path)
    outcome = executor(place, workers=2).run(named("a"))
    assert outcome.done == ["a"]
    told = place.log("a").read_text()
    assert told.count("its worker, or one beside it, died") == ATTEMPTS


def test_a_pool_found_broken_with_runs_in_flight_is_restarted_once(tmp_path):
    class Broken(Pool):
        def submit(self, call, begun_by, job, *place):
            if self._flying:
                raise BrokenProcessPool
            return super().submit(call, begun_by, job, *place)

    log = []
    executor = pools(Broken(2, {"a"}, log), Pool(1, {}, log))
    outcome = executor(ResultsFolder(tmp_path), workers=2).run(named("a", "b", "c"))
    assert sorted(outcome.done) == ["a", "b", "c"]
    assert log[:3] == [["a"], ["b"], ["a"]]


def test_a_worker_with_other_code_than_the_campaign_ends_it(tmp_path, monkeypatch):
    class Here(Pool):
        def submit(self, call, *arguments):
            future = Future()
            try:
                future.set_result(call(*arguments))
            except Exception as error:
                future.set_exception(error)
            return future

    executor = pools(Here(1, {}, []))(ResultsFolder(tmp_path))
    monkeypatch.setattr("samlib.records.results_folder.packages", lambda: {"torch": "3.0"})
    with pytest.raises(CampaignError, match="changed while the campaign ran") as caught:
        executor.run(CONFIGS[:1])
    one_line(caught)
    assert list(tmp_path.iterdir()) == []


def test_an_unforeseen_error_is_one_line_and_a_log(tmp_path, monkeypatch):
    def broken(config, **options):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("samlib.campaign.jobs.train", broken)
    place = ResultsFolder(tmp_path)
    reason = one_job(CONFIGS[0], place, "cpu", None, False)
    log = place.log(CONFIGS[0].run_id)
    assert reason == "ZeroDivisionError: by zero"
    assert "in broken" in log.read_text()
    assert not place.runs.exists()


def test_a_full_disk_ends_the_campaign_with_one_line(tmp_path, full_disk):
    full_disk()
    with pytest.raises(DiskError, match="the disk is full: free some space") as caught:
        one_job(CONFIGS[0], ResultsFolder(tmp_path), "cpu", None, False)
    one_line(caught)
    assert list(tmp_path.glob("runs/*")) == []


# --- the lock ------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path):
    first, second = ResultsFolder(tmp_path / "quick"), ResultsFolder(tmp_path / "quick")
    for _ in range(2):  # given back at the end
        with first.locked():
            with (
                pytest.raises(CampaignError, match=f"written by process {os.getpid()}: ") as caught,
                second.locked(),
            ):
                pass
            one_line(caught)
            with ResultsFolder(tmp_path / "other").locked():
                pass
    with second.locked():
        pass


def test_a_killed_holder_frees_the_lock(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from samlib.records.results_folder import ResultsFolder\n"
        "with ResultsFolder(Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with (
                pytest.raises(CampaignError, match=f"process {holder.pid}:"),
                ResultsFolder(tmp_path).locked(),
            ):
                pass
        finally:
            holder.kill()
    with ResultsFolder(tmp_path).locked():
        pass


# --- the change of old for new -------------------------------------------------------------------


def test_a_campaign_continues_and_then_replaces_the_old_results(tmp_path):
    old = results_folder.place(tmp_path, "quick").runs / "old.json"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    for _ in range(2):
        begun = results_folder.fresh(tmp_path, "quick")
    store.write(begun.runs, {"run_id": "new"})
    assert old.exists()
    results_folder.put_in_place(begun, tmp_path, "quick")
    assert [p.name for p in results_folder.place(tmp_path, "quick").runs.iterdir()] == ["new.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["quick"]


def test_a_campaign_begun_by_other_code_is_refused(tmp_path):
    begun = results_folder.fresh(tmp_path, "quick")
    for content in ('{"source": "other"}', "cut sh"):
        begun.folder.mkdir(exist_ok=True)
        (begun.folder / "campaign.json").write_text(content)
        with pytest.raises(CampaignError, match="begun by other code") as caught:
            results_folder.check_origin(begun)
        assert str(begun.folder) in one_line(caught)
