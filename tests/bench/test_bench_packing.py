"""Packing: its order and arithmetic on made-up times, and one small campaign."""

from functools import partial

import pytest
import torch

from samlib import bench
from samlib.__main__ import main
from samlib.bench import packing, timing
from samlib.campaign.jobs import Outcome
from samlib.errors import ConfigError, SamlibError
from samlib.records import journal, store
from samlib.records.results_folder import ResultsFolder


def test_every_count_has_its_turn_in_every_round():
    assert list(packing.turns((1, 2), 3)) == [1, 2, 2, 1, 1, 2]


def test_rates_and_gains_are_taken_round_by_round():
    least = [3600.0, 1800.0, 900.0]  # one worker on a machine that becomes slower
    entry = packing.packed(2, 8, [4.0, 8.0, 20.0], least)
    assert entry["workers"] == 2
    assert entry["runs_per_hour"] == [2520.0, 3600.0, 5400.0]
    assert entry["gain"] == [1.8, 2.0, 2.0]


def test_numbers_of_workers_follow_the_device():
    assert packing.Setting().counts == (1, 2)
    assert packing.Setting(device="cuda:0").counts == (1, 2, 4, 8)
    assert packing.Setting(workers=(4, 1, 4)).counts == (1, 4)


def test_a_run_is_the_profiles_but_shorter():
    config = packing.Setting(epochs=3, images=64).config
    assert (config.model, config.epochs, config.train_size) == ("wrn10_1", 3, 64)
    config = packing.Setting(problem="vit", epochs=2).config
    assert (config.model, config.epochs, config.warmup_epochs) == ("vit_micro", 2, 1)
    assert config.train_size == 500
    assert packing.Setting(problem="vit").name == "packing-quick-vit-cpu"


@pytest.mark.parametrize(
    "wrong",
    [
        {"profile": "quik"},
        {"problem": "resnet56"},
        {"workers": ()},
        {"workers": (0, 1)},
        *({name: 0} for name in ("epochs", "images", "runs", "rounds")),
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        packing.Setting(**wrong)


def test_packing_is_measured_and_recorded(tmp_path, monkeypatch):
    handed_out = []
    run = packing._Gang.run

    def noted(gang, runs):
        ids = run(gang, runs)
        handed_out.append((gang.workers, ids, {journal.worker(gang._campaign, i) for i in ids}))
        return ids

    monkeypatch.setattr(packing._Gang, "run", noted)
    setting = packing.Setting(profile="smoke", epochs=1, workers=(1, 2), runs=2, rounds=2)
    record, path = bench.run(packing, setting, tmp_path)
    assert path == tmp_path / "bench" / "packing-smoke-wrn-cpu.json"
    assert store.read_one(path)["packed"] == record["packed"]
    assert timing.read(tmp_path, "packing") == [store.read_one(path)]
    one, two = record["packed"]
    assert (one["workers"], one["runs"], two["workers"], two["runs"]) == (1, 2, 2, 4)
    assert one["gain"] == [1.0, 1.0, 1.0]
    for entry in (one, two):
        assert 0 < entry["runs_per_hour"][0] <= entry["runs_per_hour"][2]
        assert entry["seconds"]["epochs"] > 0
    timed = handed_out[-4:]
    assert [workers for workers, *_ in timed] == [1, 2, 2, 1]
    for workers in (1, 2):
        mine = [(ids, at) for count, ids, at in handed_out if count == workers]
        assert len(set.union(*(at for _, at in mine[:-2]))) == workers, "all had a run before"
        ids = [i for each, _ in mine for i in each]
        assert len(ids) == len(set(ids)), "no run is done twice"
    assert " 2 workers: " in packing.table(record)


class Workers:
    """Instead of an executor: one worker is up at once, the other late; a seed may fail."""

    def __init__(self, campaign, *, workers, device, failing=None):
        self.campaign, self.failing, self.calls = campaign, failing, 0

    def run(self, jobs):
        self.calls += 1
        outcome = Outcome()
        self.campaign.logs.mkdir(parents=True, exist_ok=True)
        for number, job in enumerate(jobs):
            pid = 1 + (number if self.calls > 2 else 0)
            text = f"2026-01-01 00:00:00 {job.name}: 1 epochs on cpu, process {pid} of host"
            self.campaign.log(job.name).write_text(f"{text}\n{{}}\n")
            if job.config.seed == self.failing:
                outcome.failed[job.name] = "it broke"
        return outcome


def test_workers_that_are_late_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "LocalExecutor", Workers)
    gang = packing._Gang(ResultsFolder(tmp_path), 2, packing.Setting())
    gang.warm_up()
    assert gang._executor.calls == 3


def test_a_run_that_fails_is_an_error_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "LocalExecutor", partial(Workers, failing=1))
    gang = packing._Gang(ResultsFolder(tmp_path), 1, packing.Setting())
    gang.run(1)
    with pytest.raises(SamlibError, match=r"^a run failed: it broke$"):
        gang.run(1)


def test_the_command_line_takes_numbers_of_workers(tmp_path, monkeypatch, capsys):
    given = []

    def run(kind, setting, results):
        given.append(setting)
        return {}, results / "record.json"

    monkeypatch.setattr(bench, "run", run)
    monkeypatch.setattr(packing, "table", lambda record: "a table")
    arguments = ["--workers", "1,4", "--runs", "2", "--epochs", "1", "--results", str(tmp_path)]
    assert main(["bench", "packing", *arguments]) == 0
    assert given == [packing.Setting(workers=(1, 4), runs=2, epochs=1)]
    assert capsys.readouterr().out.startswith("a table\n")
    with pytest.raises(SystemExit):
        main(["bench", "packing", "--workers", "1,none"])
    assert "'none' is not a number of workers" in capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_runs_are_packed_on_a_gpu(tmp_path):
    of_digits = {"profile": "quick", "epochs": 1}  # which need no download
    setting = packing.Setting(**of_digits, workers=(1, 2), runs=2, rounds=1, device="cuda")
    record, _ = bench.run(packing, setting, tmp_path)
    assert [entry["workers"] for entry in record["packed"]] == [1, 2]
    assert torch.cuda.get_device_name() in packing.table(record)
