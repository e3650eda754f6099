"""Runs on a real cluster of Ray's processes on this machine: the records of local execution."""

import dataclasses
import getpass
import os
import socket
import sys
import tempfile
import threading
import time

import pytest
from conftest import one_line, repeatable

from samlib.campaign import ray_cluster, ray_executor, ray_node, runner
from samlib.campaign.jobs import RunJob
from samlib.campaign.ray_cluster import ClusterError
from samlib.campaign.ray_executor import RayExecutor, resources
from samlib.errors import ConfigError
from samlib.measures.measurement import MeasureJob, measure
from samlib.records import journal, store
from samlib.records.results_folder import OtherCode, ResultsFolder
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import train

TINY = {"train_size": 64, "validation_size": 20, "epochs": 2, "batch_size": 32}
CONFIGS = [
    RunConfig(**TINY, seed=0),
    RunConfig(**TINY, seed=1, geometry="l2", rho=0.1, mask="random", model="resnet8"),
    RunConfig(**TINY, seed=1, geometry="fisher", rho=0.1, mask="dynamic"),
]
LONG = RunConfig(**TINY | {"epochs": 40, "eval_every": 40}, seed=3, model="resnet8")


@pytest.fixture(scope="module")
def two_nodes():
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 would wait for all other tests
        with ray_cluster.simulated(2) as nodes:
            ray_cluster.connect(None)  # once: processes that have imported everything stay
            yield nodes
            ray_cluster.import_ray().shutdown()


def expected(config):
    return repeatable({"format": store.FORMAT, **train(config)})


def found(folder):
    return {run_id: repeatable(record) for run_id, record in store.read(folder).items()}


def test_a_node_whose_system_has_no_numbers_of_users_takes_their_names(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "getuid")
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    site = ray_node.Site(ResultsFolder(tmp_path / "far"), None, "campaign", {}, "cpu", None)
    with ray_node._apart(site, RunJob(LONG)) as folder:
        assert folder.path == tmp_path / "samlib-somebody" / "campaign" / LONG.run_id


def node_of(nodes, pid):
    """The node whose raylet started a process."""
    with open(f"/proc/{pid}/stat") as stat:
        parent = int(stat.read().rpartition(")")[2].split()[1])
    for node in nodes.worker_nodes:
        if parent in [p.process.pid for p in node.all_processes["raylet"]]:
            return node
    raise AssertionError(f"no node has process {pid}")


@pytest.mark.slow
def test_a_node_killed_in_mid_campaign_costs_an_attempt_only(two_nodes, tmp_path):
    place, killed = ResultsFolder(tmp_path), []

    def kill():
        deadline = time.monotonic() + 300
        while not killed and time.monotonic() < deadline:
            for note in journal.running(place):
                if note["run_id"] == LONG.run_id and (note["epoch"] or 0) >= 2:
                    killed.append(node_of(two_nodes, note["pid"]))
                    two_nodes.remove_node(killed[0], allow_graceful=False)
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    with RayExecutor(place) as executor:
        assert executor.workers == 2
        outcome = executor.run([RunJob(config) for config in (LONG, *CONFIGS)])
    killer.join()
    assert len(killed) == 1
    assert not outcome.failed
    assert sorted(outcome.done) == sorted(c.run_id for c in [LONG, *CONFIGS])
    assert found(place.runs) == {c.run_id: expected(c) for c in [LONG, *CONFIGS]}
    assert all(place.weights(c.run_id).exists() for c in [LONG, *CONFIGS])
    log = place.log(LONG.run_id).read_text()
    assert "its worker or node died: " in log
    assert log.count("40 epochs on cpu") == 2
    assert journal.running(place) == []
    two_nodes.add_node(num_cpus=1)


@pytest.mark.slow
def test_results_come_back_through_ray_where_no_folder_is_shared(two_nodes, tmp_path):
    far, near = ResultsFolder(tmp_path / "far"), ResultsFolder(tmp_path / "near")
    missing, refused = RunConfig(dataset="cifar10", seed=9), RunConfig(seed=77)
    first, second = CONFIGS[:2]
    measured = [MeasureJob(first, "sharpness"), MeasureJob(second, "sharpness")]
    told = []
    with RayExecutor(far, data_dir=tmp_path, shared=False) as executor:
        outcome = executor.run(
            [RunJob(config) for config in (first, missing, second, refused)],
            may_start=lambda job: job.config is not refused,
            on_done=lambda job, failure: told.append((job.name, failure)),
        )
        assert sorted(outcome.done) == sorted([first.run_id, second.run_id])
        assert outcome.skipped == [refused.run_id]
        assert "prepare --dataset cifar10" in outcome.failed[missing.run_id]
        assert sorted(told) == sorted(
            [(first.run_id, None), (second.run_id, None), *outcome.failed.items()]
        )
        far.weights(second.run_id).unlink()  # then the run is repeated for them
        assert len(executor.run(measured).done) == 2
    assert far.weights(second.run_id).exists()
    assert not far.checkpoint("any").parent.exists()
    assert "failed: " in far.log(missing.run_id).read_text()
    assert "completed" in far.log(first.run_id).read_text()
    for job in measured:
        store.write(near.runs, train(job.config, weights=near.weights(job.config.run_id)))
        measure(job, near)
    assert found(far.runs) == found(near.runs)
    values = [
        {run_id: r["values"] for run_id, r in store.read(c.measures("sharpness")).items()}
        for c in (far, near)
    ]
    assert values[0] == values[1]
    assert len(values[0]) == 2


class Deadly:
    """A job that ends the process it is sent to."""

    name, config = "deadly", RunConfig()

    def reads(self, folder):
        return ()

    def record(self, folder):
        return folder.runs / "deadly.json"

    def __reduce__(self):
        return os._exit, (1,)


class DiesAfterIts(Deadly):
    """A job whose process dies once its record is in the shared folder."""

    def __init__(self, folder):
        self._path = self.record(folder)

    def __reduce__(self):
        write = f"import os, pathlib; pathlib.Path({str(self._path)!r}).write_text('whole')"
        return exec, (f"{write}; os._exit(1)",)  # a node does not import this module


@pytest.mark.slow
def test_a_worker_that_dies_with_its_record_written_has_done_its_job(two_nodes, tmp_path):
    place = ResultsFolder(tmp_path)
    place.runs.mkdir()
    with RayExecutor(place) as executor:
        outcome = executor.run([DiesAfterIts(place)])
    assert (outcome.done, outcome.failed) == (["deadly"], {})
    assert place.log("deadly").read_text().count("its worker or node died") == 1


@pytest.mark.slow
def test_a_run_whose_workers_die_is_given_up(two_nodes, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_executor, "ATTEMPTS", 2)
    with RayExecutor(ResultsFolder(tmp_path)) as executor:
        outcome = executor.run([Deadly(), RunJob(CONFIGS[0])])
    assert outcome.done == [CONFIGS[0].run_id]
    assert list(outcome.failed) == ["deadly"]
    assert "died 2 times: " in outcome.failed["deadly"]
    assert "\n" not in outcome.failed["deadly"]


def test_a_cluster_without_a_gpu_is_told_before_anything_waits(two_nodes, tmp_path):
    with pytest.raises(ClusterError, match="has no GPU") as caught:
        RayExecutor(ResultsFolder(tmp_path), device="cuda")
    one_line(caught)


def test_an_address_nobody_answers_at_is_told_at_once(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:1: .*refused") as caught:
        RayExecutor(ResultsFolder(tmp_path))
    one_line(caught)


def test_a_gpu_is_shared_by_small_networks():
    assert resources(RunJob(RunConfig()), "cpu") == {"num_cpus": 1}
    asked = [
        resources(RunJob(RunConfig(model=model)), "cuda")["num_gpus"]
        for model in ("wrn28_10", "wrn16_4", "resnet56")
    ]
    assert asked == [1.0, 0.5, 0.25]
    assert resources(MeasureJob(RunConfig(), "sharpness"), "cuda")["num_gpus"] == 0.25


@pytest.mark.parametrize("device", ["cuda:1", "gpu"])
def test_which_gpu_is_not_the_users_to_choose(tmp_path, device):
    with pytest.raises(ConfigError, match="cpu or cuda") as caught:
        RayExecutor(ResultsFolder(tmp_path), device=device)
    one_line(caught)


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs ray: pip install .*\[cluster\]'") as caught:
        runner.start_executor("ray", ResultsFolder(tmp_path), None, "cpu", None)
    one_line(caught)


def test_a_node_with_other_code_is_refused(tmp_path):
    site = ray_node.Site(ResultsFolder(tmp_path), None, "name", {}, "cpu", None)
    answer = ray_node.work(RunJob(CONFIGS[0]), site, {})
    assert f"{socket.gethostname()} has other code or package versions" in answer.failure
    assert answer.ends is OtherCode
    assert not any(tmp_path.iterdir())


def test_a_node_with_other_code_ends_the_campaign_and_fails_no_run(two_nodes, tmp_path):
    failed = []
    with RayExecutor(ResultsFolder(tmp_path)) as executor:
        executor._site = dataclasses.replace(executor._site, origin={})
        with pytest.raises(OtherCode, match="install the same there") as caught:
            executor.run(map(RunJob, CONFIGS), on_done=lambda job, failure: failed.append(job))
    one_line(caught)
    assert failed == []


def test_a_cluster_of_this_machine_has_the_cores_that_this_process_may_use(monkeypatch):
    ray, asked = pytest.importorskip("ray"), {}
    monkeypatch.setattr(ray_cluster, "_address", lambda: "local")
    monkeypatch.setattr(ray_cluster, "cores", lambda: 3)
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    ray_cluster.connect(None)
    assert asked["num_cpus"] == 3
