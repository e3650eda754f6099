"""Which job comes next: that of the first chapter that has one, asked anew after every job."""

from itertools import islice

from samlib.campaign.backlog import Backlog
from samlib.campaign.jobs import RunJob
from samlib.campaign.local import LocalExecutor
from samlib.campaign.progress import Progress
from samlib.measures.measurement import MEASURES
from samlib.records.results_folder import ResultsFolder
from samlib.study import profiles
from samlib.study.cells import Needs
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
