"""The missing runs under torchrun: what is said before they join others, and when none is begun."""

from dataclasses import replace

import pytest
from helpers import result

from samlib.campaign import torchrun
from samlib.errors import ConfigError
from samlib.records import store
from samlib.records.results_folder import ResultsFolder
from samlib.study import plan, profiles
from samlib.study.cells import Needs
from samlib.trainer import process_group

NEEDS = [Needs([replace(plan.introduction(profiles.get("smoke")).cells[0], seeds=(0, 1, 2))])]
THERE, *MISSING = NEEDS[0].cells[0].runs({})


def of(config, **changes):
    """A made-up record of a run, of 100 seconds."""
    times = {"wall": 100.0, "epochs": [100 / config.epochs] * config.epochs}
    return result(run_id=config.run_id, config=config.to_dict(), times=times, **changes)


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    """The first of two workers goes on with a folder that has one record; the runs it trains."""
    monkeypatch.setattr(process_group.dist, "all_reduce", lambda tensor: None)
    monkeypatch.setattr(process_group.dist, "broadcast_object_list", lambda objects, src: None)
    folder, trained = ResultsFolder(tmp_path), []

    def train(config, workers, **options):
        trained.append(config)
        return of(config)

    def run(time_budget=None, **there):
        store.write(folder.runs, of(THERE, **there))
        among = process_group.Workers(0, 2, "cpu")
        trained.clear()
        outcome = torchrun.run_missing_on_all_workers(NEEDS, folder, among, time_budget=time_budget)
        assert outcome.done == [config.run_id for config in trained]
        assert bool(outcome.skipped) == (time_budget == 50)
        return trained

    monkeypatch.setattr(torchrun, "train_distributed", train)
    return run


@pytest.mark.parametrize(("budget", "begun"), [(None, True), (1000, True), (50, False)])
def test_no_run_is_begun_that_would_end_after_the_time(campaign, budget, begun):
    assert campaign(budget) == (MISSING if begun else [])


def test_a_run_with_a_checkpoint_goes_on_whatever_its_whole_time(campaign, tmp_path):
    for config in MISSING:
        path = ResultsFolder(tmp_path).checkpoint(config.run_id)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    store.write(ResultsFolder(tmp_path).runs, of(THERE))
    among = process_group.Workers(0, 2, "cpu")
    outcome = torchrun.run_missing_on_all_workers(
        NEEDS, ResultsFolder(tmp_path), among, time_budget=50
    )
    assert (len(outcome.done), outcome.skipped) == (len(MISSING), [])


def test_the_first_workers_records_decide_alone_about_the_time(tmp_path, monkeypatch):
    """The others have none of before, and would estimate from the runs of this campaign alone."""
    monkeypatch.setattr(torchrun, "train_distributed", lambda config, *a, **o: of(config))
    voted = []
    monkeypatch.setattr(process_group.Workers, "total", lambda self, *v: voted.append(v) or [0.0])
    ahead = iter([THERE.to_dict(), MISSING[0].to_dict(), None])
    monkeypatch.setattr(process_group.Workers, "from_first", lambda self, found: next(ahead))
    second, folder = process_group.Workers(1, 2, "cpu"), ResultsFolder(tmp_path)
    torchrun.run_missing_on_all_workers(NEEDS, folder, second, time_budget=50)
    assert voted == [(0.0,)] * 2


def test_before_records_of_other_code_devices_or_workers_are_joined_it_is_said(campaign, capsys):
    campaign(provenance={"source": "0123456789abcdef", "gpu": "NVIDIA H100"})
    other, device = capsys.readouterr().err.splitlines()
    assert other.startswith("warning: 1 of the 1 existing records were made by other code (code 01")
    assert device.startswith("warning: 1 of the 1 records that are there were computed on a GPU")


def test_where_no_run_is_missing_nothing_is_said(campaign, capsys):
    campaign()
    capsys.readouterr()
    campaign()
    assert capsys.readouterr().err == ""


def test_a_run_that_several_workers_cannot_train_leaves_the_others(campaign, monkeypatch):
    """As with SSAM-D, whose masks would differ from worker to worker."""
    assert len(MISSING) > 1
    trained = torchrun.train_distributed

    def refuse(config, workers, **options):
        if config == MISSING[0]:
            raise ConfigError("not on several workers")
        return trained(config, workers, **options)

    monkeypatch.setattr(torchrun, "train_distributed", refuse)
    outcome = []
    run = torchrun.run_missing_on_all_workers

    def kept(*given, **options):
        outcome.append(run(*given, **options))
        return outcome[0]

    monkeypatch.setattr(torchrun, "run_missing_on_all_workers", kept)
    assert campaign() == MISSING[1:]
    assert outcome[0].failed == {MISSING[0].run_id: "not on several workers"}


def test_a_warning_is_not_repeated_by_runs_that_are_refused(campaign, monkeypatch, capsys):
    def refuse(config, workers, **options):
        raise ConfigError("not on several workers")

    monkeypatch.setattr(torchrun, "train_distributed", refuse)
    assert campaign(provenance={"source": "0123456789abcdef", "gpu": None}) == []
    assert capsys.readouterr().err.count("were made by other code") == 1
