"""Measurements: bound to the run they belong to, made from its weights, which can be made again."""

import os
import subprocess
import sys

import pytest
from conftest import one_line
from helpers import FIELDS, TOGETHER
from made_up import made_up_results

from samlib.campaign.backlog import Backlog, Estimate
from samlib.campaign.jobs import RunJob, run_job
from samlib.campaign.runner import run_missing
from samlib.measures import measurement
from samlib.measures.measurement import MeasureJob, NotTheSame, measure, twin
from samlib.provenance import tf32
from samlib.records import store
from samlib.records.results_folder import ResultsFolder
from samlib.report.results import load
from samlib.study import plan, profiles
from samlib.study.cells import Cell, Needs, ToMeasure, missing_measurements
from samlib.study.methods import ALL, BASE, ON, Method
from samlib.trainer import checkpoint
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import train

CONFIG = RunConfig(train_size=64, validation_size=20, epochs=2, batch_size=32)
JOB = MeasureJob(CONFIG, "sharpness")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A campaign with one run, and a measure that is quick to take."""
    weight = lambda run: {"sum": run.model.fc.weight.sum().item()}  # noqa: E731
    monkeypatch.setitem(measurement.MEASURES, "sharpness", weight)
    campaign = ResultsFolder(tmp_path / "some")
    assert run_job(RunJob(CONFIG), campaign, "cpu", None) is None
    return campaign


def test_it_is_taken_on_the_final_weights(place):
    ends = []
    train(CONFIG, on_epoch=lambda run: ends.append(run.model.fc.weight.sum().item()))
    found = measure(JOB, place)
    assert found["values"] == {"sum": ends[-1]}
    kept = store.read(place.measures("sharpness"))[CONFIG.run_id]
    assert kept["of"] == store.read(place.runs)[CONFIG.run_id]["checksum"]


def test_linear_algebra_has_one_thread_though_its_library_is_loaded_late(place):
    """Scipy brings a BLAS of its own; a limit set before it is loaded would not reach it."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from threadpoolctl import threadpool_info\n"
        "from samlib.measures import measurement\n"
        "from samlib.records.results_folder import ResultsFolder\n"
        "from samlib.trainer.config import RunConfig\n"
        "assert 'scipy' not in sys.modules\n"
        "def threads(run):\n"
        "    import scipy.sparse.linalg\n"
        "    found = [lib for lib in threadpool_info() if lib['user_api'] == 'blas']\n"
        "    return {lib['filepath']: lib['num_threads'] for lib in found}\n"
        "measurement.MEASURES['sharpness'] = threads\n"
        f"job = measurement.MeasureJob(RunConfig(**{CONFIG.to_dict()}), 'sharpness')\n"
        f"found = measurement.measure(job, ResultsFolder(Path({str(place.path)!r})))\n"
        "print(sorted(found['values'].values()))\n"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.stdout.split() == [b"[1,", b"1]"], done.stderr.decode()


def test_lost_weights_are_made_again_and_are_the_same(place):
    first = measure(JOB, place)["values"]
    path = place.weights(CONFIG.run_id)
    content = path.read_bytes()
    path.unlink()
    assert measure(JOB, place)["values"] == first
    assert path.read_bytes() == content
    path.write_bytes(content[:-100])
    with pytest.warns(UserWarning, match="is damaged and is not used"):
        assert measure(JOB, place)["values"] == first


def test_weights_of_another_run_of_that_name_are_not_measured(place):
    """As after records were brought in without the weights, which git does not keep."""
    path = place.weights(CONFIG.run_id)
    other = checkpoint.load(path)
    other["norm1.weight"] += 0.01
    checkpoint.save_final(path, other)
    with pytest.raises(NotTheSame, match="are not those of its record: remove them") as error:
        measure(JOB, place)
    one_line(error)
    assert not list(place.measures("sharpness").glob("*.json"))


def test_a_run_repeated_for_its_weights_leaves_none_if_it_is_killed(place, monkeypatch):
    path = place.weights(CONFIG.run_id)
    checkpoint.discard(path)

    def killed(config, *, weights, **options):
        checkpoint.save_final(weights, {"other": "weights"})
        raise KeyboardInterrupt

    monkeypatch.setattr(measurement, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(JOB, place)
    assert list(path.parent.iterdir()) == []


def test_weights_that_cannot_be_made_again_are_not_replaced_by_others(place):
    record = store.read_one(place.runs / f"{CONFIG.run_id}.json")
    record["curves"]["train_loss"][0] += 1e-3
    rewritten(place, curves=record["curves"])
    place.weights(CONFIG.run_id).unlink()
    with pytest.raises(NotTheSame, match="measure it where it was trained") as caught:
        measure(JOB, place)
    one_line(caught)
    assert not place.weights(CONFIG.run_id).exists()
    assert "measure it where it was trained" in run_job(JOB, place, "cpu", None)


def rewritten(place, **changes):
    """The run's record with other values, as another place or an older run would have left it."""
    record = store.read_one(place.runs / f"{CONFIG.run_id}.json")
    kept = {k: v for k, v in record.items() if k not in ("format", "checksum")}
    store.write(place.runs, kept | changes)


@pytest.mark.parametrize(
    ("gpu", "device", "advice"),
    [
        ("a GPU", "cuda", "copy them from where it was trained"),
        ("a GPU", "cpu", "copy them from where it was trained"),
        (None, "cuda", "measure it with --device cpu"),
    ],
)
def test_no_run_is_repeated_for_a_gpu_to_end_otherwise(place, monkeypatch, gpu, device, advice):
    record = store.read_one(place.runs / f"{CONFIG.run_id}.json")
    rewritten(place, provenance=record["provenance"] | {"gpu": gpu})
    place.weights(CONFIG.run_id).unlink()
    monkeypatch.setattr(measurement, "train", None)
    with pytest.raises(NotTheSame, match=advice) as caught:
        measure(JOB, place, device=device)
    assert "a GPU does not repeat a run bit for bit" in one_line(caught)


def test_what_is_measured_is_in_full_precision_and_the_record_says_so(place, monkeypatch):
    seen = []
    monkeypatch.setitem(measurement.MEASURES, "sharpness", lambda run: seen.append(tf32()))
    monkeypatch.setattr(measurement, "provenance", lambda *_, **__: {"tf32": tf32()})
    assert measure(JOB, place)["provenance"] == {"tf32": seen[0]}
    assert seen == [{"convolutions": False, "products": False}]
    assert tf32() == {"convolutions": True, "products": False}


def test_a_diverged_run_has_no_values(place):
    wild = CONFIG.replace(lr=1e30)
    assert run_job(RunJob(wild), place, "cpu", None) is None
    assert measure(MeasureJob(wild, "sharpness"), place)["values"] is None


def test_a_measurement_of_another_run_of_that_name_is_not_believed(place):
    measure(JOB, place)
    runs = store.read(place.runs)
    assert set(measurement.read(place, runs)["sharpness"]) == {CONFIG.run_id}
    again = {CONFIG.run_id: runs[CONFIG.run_id] | {"checksum": "other"}}
    assert measurement.read(place, again)["sharpness"] == {}


# --- of a run and its twin ---

SAM = CONFIG.replace(geometry="l2", rho=0.1)
PAIR = MeasureJob(SAM, "connectivity")


@pytest.fixture
def pair(place, monkeypatch):
    """The campaign with a run of SAM beside its twin, and a measure of both."""

    def difference(run, weights):
        return {"difference": (run.model.fc.weight - weights["fc.weight"]).sum().item()}

    monkeypatch.setitem(measurement.MEASURES, "connectivity", difference)
    assert run_job(RunJob(SAM), place, "cpu", None) is None
    return place


def test_the_twin_is_the_base_optimizers_run_of_the_same_seed_and_problem():
    base = CONFIG.replace(mask_samples=16, updated="no_norm")
    sparse = Method("fisher", "dynamic", "all", 0.5)
    methods = (BASE, ALL, ON, sparse, ALL.but(start=1, end=2, batchnorm="first"))
    methods += (ON.but(member="usam"),)
    assert {twin(m.on(base, 0.1, 3)) for m in methods} == {BASE.on(base, 0.0, 3)}


def test_of_every_field_it_is_said_whether_the_twin_shares_it():
    config = RunConfig(**TOGETHER)
    shared = {name for name in FIELDS if getattr(twin(config), name) == getattr(config, name)}
    assert shared == {
        *("dataset", "model", "seed", "train_size", "validation_size", "label_noise", "augment"),
        *("epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "precision"),
        *("label_smoothing", "eval_every", "warmup_epochs", "clip_norm", "updated", "decayed"),
        *("mask_every", "mask_samples"),
    }


def test_a_measure_of_a_pair_is_taken_on_both_ends(pair):
    ends = [checkpoint.load(pair.weights(c.run_id))["fc.weight"] for c in (SAM, CONFIG)]
    found = measure(PAIR, pair)["values"]["difference"]
    assert found == (ends[0] - ends[1]).sum().item() != 0
    files = {path.relative_to(pair.path).as_posix() for path in PAIR.reads(pair)}
    ids = (SAM.run_id, CONFIG.run_id)
    assert files == {f"runs/{i}.json" for i in ids} | {f"weights/{i}.pt" for i in ids}
    pair.weights(CONFIG.run_id).unlink()
    assert measure(PAIR, pair)["values"]["difference"] == found
    assert pair.weights(CONFIG.run_id).exists()


def test_it_belongs_to_both_runs(pair):
    measure(PAIR, pair)
    runs = store.read(pair.runs)
    assert set(measurement.read(pair, runs)["connectivity"]) == {SAM.run_id}
    for run in (SAM, CONFIG):
        again = runs | {run.run_id: runs[run.run_id] | {"checksum": "other"}}
        assert measurement.read(pair, again)["connectivity"] == {}
    assert measurement.read(pair, {SAM.run_id: runs[SAM.run_id]})["connectivity"] == {}


def test_it_waits_for_the_twin():
    cell = Cell(CONFIG, ALL, (0.1,), (1000,), (0,), refine=False)
    wanted = [ToMeasure(cell, "connectivity", 1)]
    nothing = {name: {} for name in measurement.MEASURES}
    assert missing_measurements(wanted, {SAM.run_id: {}}, nothing) == []
    both = {SAM.run_id: {}, CONFIG.run_id: {}}
    assert missing_measurements(wanted, both, nothing) == [PAIR]
    assert missing_measurements(wanted, both, nothing | {"connectivity": {SAM.run_id: {}}}) == []


def test_where_one_of_them_diverged_there_are_no_values(pair):
    wild = CONFIG.replace(lr=1e30)
    for run in (wild, wild.replace(geometry="l2", rho=0.1)):
        assert run_job(RunJob(run), pair, "cpu", None) is None
    assert measure(MeasureJob(run, "connectivity"), pair)["values"] is None


def test_runs_are_measured_as_they_become_known():
    cell = Cell(CONFIG, ON, (0.5, 1.0), (1000,), (0, 1), refine=False)
    chosen = ToMeasure(cell, "sharpness", 1)
    every = ToMeasure(cell, "sharpness", 1, every_value=True)
    assert chosen.runs({}) == []
    assert (len(every.runs({})), every.expected({})) == (2, 0)
    assert chosen.expected({}) == 1
    nothing = {name: {} for name in measurement.MEASURES}
    assert missing_measurements([every], {}, nothing) == []
    scores = {0.5: 90.0, 1.0: 91.0}
    runs = {r.run_id: {"validation_accuracy": scores[r.rho]} for r in cell.runs({})}
    assert len(missing_measurements([every], runs, nothing)) == 2
    assert missing_measurements([chosen], runs, nothing) == []
    runs |= {run.run_id: {} for run in cell.at(1.0)}
    only = missing_measurements([chosen], runs, nothing)
    assert [(job.config.rho, job.config.seed) for job in only] == [(1.0, 0)]


def test_a_campaign_trains_then_measures(tmp_path, monkeypatch, capsys):
    base = Cell(CONFIG, BASE, (0.0,), (1000,), (0, 1))
    monkeypatch.setattr("samlib.measures.sharpness.SETTINGS", ())
    needs = [Needs([base], [ToMeasure(base, "sharpness", 2)])]
    campaign = ResultsFolder(tmp_path / "some")
    outcome = run_missing(needs, campaign, workers=1)
    assert not outcome.failed
    assert len(outcome.done) == 4
    runs = store.read(campaign.runs)
    found = measurement.read(campaign, runs)
    assert found["sharpness"].keys() == runs.keys()
    assert "4/4 runs" in capsys.readouterr().err
    assert not run_missing(needs, campaign, workers=1).done
    estimate = Estimate(runs, found)
    measured = MeasureJob(CONFIG.replace(seed=9), "sharpness")
    seconds = [r["times"]["wall"] for r in found["sharpness"].values()]
    assert min(seconds) <= estimate.seconds(measured) <= max(seconds)


def test_the_backlog_of_a_complete_campaign_is_empty(tmp_path):
    found = load("smoke", made_up_results(tmp_path))
    backlog = Backlog(plan.chapter_needs(profiles.get("smoke")), found.records, found.measures)
    assert backlog.jobs() == []
    assert backlog.done == backlog.total
