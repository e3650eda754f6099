"""Which job comes next: that of the first chapter that has one, asked anew after every job."""

import io
from collections import Counter
from itertools import islice

import pytest

from samlib.campaign import runner
from samlib.campaign.backlog import Backlog, Estimate
from samlib.campaign.jobs import Outcome, RunJob
from samlib.campaign.local import LocalExecutor
from samlib.campaign.progress import Progress
from samlib.measures.measurement import MEASURES, MeasureJob
from samlib.records.results_folder import ResultsFolder
from samlib.study import profiles
from samlib.study.cells import Needs, ToMeasure
from samlib.study.methods import ALL, BASE, ON
from samlib.trainer.config import RunConfig

SMOKE = profiles.get("smoke")
SAM, SAM_ON, SGD = (SMOKE.cell(SMOKE.headline, method) for method in (ALL, ON, BASE))


def learn(backlog, jobs):
    """Records of runs, as far as a search reads them: the smaller rho is the better."""
    for job in jobs:
        backlog.runs[job.name] = {"validation_accuracy": 90 - job.config.rho}


def backlog_of(*cells):
    return Backlog([Needs([cell]) for cell in cells], {}, {name: {} for name in MEASURES})


def test_what_a_search_finds_out_comes_before_a_later_chapter():
    backlog = backlog_of(SAM, SAM_ON)
    source = backlog.one_by_one()
    tuning = list(islice(source, len(SAM.values({}))))
    assert {job.config.mask for job in tuning} == {"all"}
    assert {job.config.seed for job in tuning} == {*SAM.tuning}
    assert next(source).config.mask == "only_norm", "a worker with nothing left begins the next"
    learn(backlog, tuning)
    compared = list(islice(source, len(SAM.seeds)))
    assert [(job.config.mask, job.config.seed) for job in compared] == [
        ("all", seed) for seed in SAM.seeds
    ]
    assert next(source).config.mask == "only_norm"


def test_every_job_comes_once_and_then_none_until_more_is_known():
    backlog = backlog_of(SGD, SAM)
    source = backlog.one_by_one()
    known = list(iter(lambda: next(source), None))
    assert len({job.name for job in known}) == len(known) == len(backlog.jobs())
    assert [next(source), next(source)] == [None, None]
    learn(backlog, known)
    more = list(iter(lambda: next(source), None))
    assert {job.config.seed for job in more} == {*SAM.seeds}
    learn(backlog, more)
    assert next(source) is None
    assert backlog.jobs() == []


def test_a_job_that_cannot_be_had_yet_is_asked_for_again(tmp_path):
    """The second run is there once the first has ended, as in a search."""
    first, second = (RunJob(RunConfig(seed=seed, dataset="cifar10")) for seed in (0, 1))
    told = []

    def jobs():
        yield first
        while not told:
            yield None
        yield second

    with LocalExecutor(ResultsFolder(tmp_path), workers=2, data_dir=tmp_path) as executor:
        outcome = executor.run(jobs(), on_done=lambda job, failure: told.append(job.name))
    assert told == [first.name, second.name]
    assert [*outcome.failed] == told, "without its data set a run fails at once"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_last_line_of_progress_is_shown_and_ended():
    log, terminal = io.StringIO(), Terminal()
    for stream in (log, terminal):
        progress = Progress(3, 2, stream)
        progress.show(5.0)
        progress.done = 3
        progress.show(0.0)
        progress.show(0.0, final=True)
    assert log.getvalue().count("3/3 runs") == terminal.getvalue().count("3/3 runs") == 1
    assert terminal.getvalue().endswith("0m00s left\n")
    progress = Progress(3, 2, log)
    progress.show(5.0)
    progress.failed = 1
    progress.show(0.0, final=True)
    assert log.getvalue().endswith("2/3 runs, 0m00s left, 1 failed\n")


def test_progress_is_due_once_in_a_while(capsys):
    progress = Progress(2, 0)
    assert progress.due
    progress.show(None)
    assert not progress.due
    progress.show(None)
    progress.done = 1
    progress.show(5.0, final=True)
    assert [line.split("] ")[1] for line in capsys.readouterr().err.splitlines()] == [
        "0/2 runs, ? left",
        "1/2 runs, 0m05s left",
    ]


# --- expected times ------------------------------------------------------------------------------


def timed(config, seconds, measure=None):
    """A record as far as an estimate reads it."""
    own = {"measure": measure} if measure else {}
    return {"config": config.to_dict(), "times": {"wall": seconds}, **own}


def test_a_measurement_of_weights_that_are_gone_costs_its_runs_too(tmp_path):
    folder, runs = ResultsFolder(tmp_path), [RunConfig(seed=s, epochs=1) for s in range(3)]
    measured = {"sharpness": {"a": timed(runs[0], 5.0, "sharpness")}}
    finished = {run.run_id: timed(run, 60.0) for run in runs}
    estimate = Estimate(finished, measured, folder=folder)
    jobs = [MeasureJob(run, "sharpness") for run in runs[1:]]
    assert estimate.total(jobs) == 2 * (60 + 5)
    assert estimate.total([*jobs, *jobs]) == 2 * 60 + 4 * 5, "its weights are kept"
    folder.weights(runs[1].run_id).parent.mkdir()
    folder.weights(runs[1].run_id).touch()
    assert [estimate.seconds(job) for job in jobs] == [5, 65]
    assert not estimate.is_floor(jobs)
    assert Estimate(finished, measured).total(jobs) == 10
    assert Estimate({"a": timed(runs[0], 60.0)}, measured, folder=folder).total(jobs) == 10, (
        "a run that is still to come leaves its weights"
    )


def test_what_a_measurement_takes_that_no_record_has_timed_is_a_floor(tmp_path):
    run = RunConfig(epochs=1)
    job, other = MeasureJob(run, "sharpness"), RunJob(run.replace(seed=1))
    estimate = Estimate({run.run_id: timed(run, 60.0)}, folder=ResultsFolder(tmp_path))
    assert (estimate.total([job, other]), estimate.is_floor([job, other])) == (120, True)
    assert not estimate.is_floor([other])
    kept = Estimate({"a": timed(run, 60.0)})
    assert (kept.total([job]), kept.is_floor([job])) == (None, True)


def test_a_network_without_records_takes_what_its_steps_were_timed_at():
    run, unseen = RunConfig(epochs=1), RunConfig(model="vit_mini", epochs=1)
    of_vits = lambda config: 400.0 if config.model == "vit_mini" else None  # noqa: E731
    estimate = Estimate({"a": timed(run, 60.0)}, unseen=of_vits)
    assert estimate.total([RunJob(run), RunJob(unseen)]) == 460
    assert Estimate({"a": timed(run, 60.0)}).total([RunJob(run), RunJob(unseen)]) == 120


def test_a_step_of_one_pass_takes_the_base_optimizers_time():
    base = RunConfig(epochs=1)
    sam = base.replace(geometry="l2", rho=0.1)
    estimate = Estimate({"a": timed(base, 60.0), "b": timed(sam, 120.0)})
    last = sam.replace(member="last", mask="only_norm")
    assert [estimate.seconds(RunJob(run)) for run in (last, sam, base)] == [60, 120, 60]


def test_what_is_still_to_come_is_counted_by_its_own_network():
    measured = [ToMeasure(SAM_ON, "sharpness", 2)]
    backlog = Backlog(
        [Needs([SGD, SAM]), Needs([SAM_ON], measured)], {}, {name: {} for name in MEASURES}
    )
    assert len(backlog.jobs()) + len(backlog.to_come()) == backlog.total
    kinds = Counter((job.measure, job.config.mask, job.config.rho > 0) for job in backlog.to_come())
    assert kinds["sharpness", "only_norm", True] == 2, "not a run"
    assert kinds[None, "all", True] == SAM.expected({})
    learn(backlog, backlog.jobs())
    assert len(backlog.jobs()) + len(backlog.to_come()) == backlog.total - backlog.done
    learn(backlog, backlog.jobs())
    assert len(backlog.jobs()) + len(backlog.to_come()) == backlog.total - backlog.done


@pytest.mark.parametrize(("budget", "starts"), [(100.0, [True, False]), (0.0, [False, False])])
def test_a_run_that_was_cut_off_goes_on_in_what_is_left_of_the_time(
    tmp_path, monkeypatch, budget, starts
):
    """Priced whole it would never fit into short slots; without any time nothing starts."""
    folder, asked = ResultsFolder(tmp_path), []

    class Asks:
        workers = 1

        def __init__(self, *given, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def run(self, jobs, *, may_start, on_done):
            cut_off, other = islice(jobs, 2)
            folder.checkpoint(cut_off.name).parent.mkdir()
            folder.checkpoint(cut_off.name).touch()
            asked.extend(map(may_start, (cut_off, other)))
            return Outcome()

    monkeypatch.setattr(runner, "LocalExecutor", Asks)
    needs, hour = [Needs([SGD])], lambda config: 3600.0
    runner.run_missing(needs, folder, time_budget=budget, quiet=True, unseen=hour)
    assert asked == starts
