"""The command line as a user meets it: one clear line and an exit status."""

import dataclasses
import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import result, run, write_images

from samlib import __main__
from samlib.campaign.jobs import Outcome, RunJob, run_job
from samlib.cli import run as cli_run
from samlib.data import datasets
from samlib.files import DiskError, as_disk_error, project_root
from samlib.publish import notebooks, pages, readme, tables
from samlib.records import store
from samlib.records.results_folder import ResultsFolder, committed
from samlib.study import plan, profiles
from samlib.study.cells import Needs, missing_runs
from samlib.trainer.config import RunConfig


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["status", "--profile", "slow"], "valid: smoke, quick"),
        (["run", "--profile", "smoke", "--only", "varients"], "variants"),
        (["train", "--model", "resnet57"], "resnet56"),
        (["train", "--geometry", "l3"], "layerwise_l2"),
        (["train", "--mask", "norms", "--geometry", "l2"], "only_norm"),
        (["train", "--geometry", "l2", "--rho", "-1"], "rho must be at least 0"),
        (["train", "--geometry", "l2", "--rho", "nan"], "rho must be finite"),
        (["train", "--precision", "fp16"], "bf16"),
        (["train", "--device", "cudaa"], "valid: cpu"),
        (["train", "--dataset", "cifar11"], "cifar100"),
        (["train", "--train-size", "40", "--batch-size", "0"], "batch_size"),
        (["prepare", "--dataset", "imagenette"], "fashion_mnist"),
        (["prepare", "--profile", "quikc"], "valid: smoke, quick"),
        (["train", "--rho", "much"], "invalid float value"),
        (["train", "--device", "meta"], "valid: cpu"),
        (["run", "--device", "gpu"], "valid: cpu"),
        (["run", "--profile", "paper", "--data", "none", "--device", "cpu"], "prepare"),
        (["runn"], "invalid choice"),
        (["notebook", "variant"], "variants"),
        (["notebook", "variants", "-p", "profil", "smoke"], "unknown parameter of variants"),
        (["notebook", "variants", "--output", "/proc/none/x.ipynb"], "another place with --output"),
        (["book", "--book", "/proc/none"], "another place with --book"),
        (["status", "--results", ""], "it is empty"),
        (["run", "--profile", "smoke", "--only", "speed"], "`python -m samlib notebook speed`"),
        (["run", "--perturbation", "synchronised"], "under torchrun"),
        (["train", "--perturbation", "synchronised"], "under torchrun"),
        (["train", "--geometry", "l2"], "add --rho"),
        (["train", "--frobnicate", "1"], "python -m samlib train --help"),
        (["notebook", "variants", "-p", "profile", "smok"], "valid: smoke, quick"),
        (["notebook", "toys", "--profile", "paper"], "unknown parameter of toys 'profile'"),
        (["notebook", "frames", "--results", "."], "unknown parameter of frames 'results'"),
        (["bench"], "`bench step` times a step"),
        (["readme", "--profile", "smoke"], "the smoke profile is no result"),
        (["readme", "--results", "/tmp/own"], "not those in /tmp/own"),
    ],
)
def test_a_mistake_gets_one_line_that_names_the_valid_values(capsys, tmp_path, arguments, says):
    if arguments[0] in ("status", "run"):
        arguments = [*arguments, "--results", str(tmp_path)]
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert says in err


def test_a_results_folder_that_is_not_there_or_is_a_profiles_own_is_told(capsys, tmp_path):
    code, _, err = run(capsys, "status", "--results", str(tmp_path / "reslts"))
    assert code == 2
    assert "there is no folder" in err
    assert len(err.splitlines()) == 1
    (tmp_path / "quick" / "runs").mkdir(parents=True)
    for verb in ("status", "run", "tables"):
        code, _, err = run(capsys, verb, "--results", str(tmp_path / "quick"))
        assert code == 2
        assert f"--results is the one above it, {tmp_path}" in err
        assert len(err.splitlines()) == 1
    assert run(capsys, "status", "--results", str(tmp_path))[0] == 0


def test_the_help_of_train_explains_every_field(capsys):
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0
    text = " ".join(out.split())
    for field in dataclasses.fields(RunConfig):
        flag = f"--{field.name.replace('_', '-')} {field.name.upper()}"
        explained = text.rpartition(flag)[2].strip()
        assert explained[:1].isalpha(), flag


@pytest.mark.parametrize("text", ["9x", "-3m", "0", "infh", "nan", ""])
def test_a_bad_duration_is_refused(capsys, text):
    code, _, err = run(capsys, "run", f"--time-budget={text}")
    assert code == 2
    assert "duration" in err


def test_help_names_every_verb(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert {*re.findall(r"^    (\w+)", out, re.MULTILINE)} == {*__main__.VERBS}


def test_reproduce_under_torchrun_names_run(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run(capsys, "reproduce", "--profile", "smoke")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "under torchrun use `run`" in err


@pytest.mark.parametrize("flags", [["--workers", "2"], ["--executor", "ray"]])
def test_what_torchrun_decides_is_refused_under_it(capsys, tmp_path, monkeypatch, flags):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run(capsys, "run", "--profile", "smoke", "--results", str(tmp_path), *flags)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "--workers and --executor are not for torchrun" in err


@pytest.fixture
def complete(monkeypatch):
    """Campaigns are complete at once, with a made-up record."""

    def run_missing(args, profile, folder):
        store.write(folder.runs, result())
        return Outcome()

    monkeypatch.setattr(cli_run, "_run_missing", run_missing)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError, DiskError("full")])
def test_when_the_runs_are_in_place_only_the_book_is_left_to_build(
    capsys, tmp_path, monkeypatch, complete, stop
):
    def stopped(*arguments):
        raise stop

    monkeypatch.setattr(tables, "write", stopped)
    arguments = ["reproduce", "--profile", "smoke", "--results", str(tmp_path)]
    if stop is not ZeroDivisionError:
        code, _, said = run(capsys, *arguments)
        assert code == (130 if stop is KeyboardInterrupt else 2)
        assert "the same command" not in said, "it would train everything anew"
    else:
        with pytest.raises(stop) as caught:
            run(capsys, *arguments)
        (said,) = caught.value.__notes__
    again = f"`python -m samlib book --results {tmp_path}`"
    assert f"the runs are complete and in place: {again}" in said
    assert list(store.read(committed(tmp_path, "smoke").runs)) == [result()["run_id"]]


@pytest.mark.parametrize(
    ("only", "needed"), [([], ["cifar10", "cifar100"]), (["--only", "sharpness"], ["cifar100"])]
)
def test_no_data_set_is_needed_that_no_run_uses(
    capsys, tmp_path, monkeypatch, complete, only, needed
):
    loaded = []
    monkeypatch.setattr(datasets, "load", lambda name, folder: loaded.append(name))
    arguments = ["--profile", "paper", "--device", "cpu", "--results", str(tmp_path)]
    assert run(capsys, "run", *arguments, *only)[0] == 0
    assert sorted(loaded) == needed


@pytest.mark.parametrize("asked", [["--dataset", "imagenet"], ["--profile", "imagenet"]])
def test_images_of_ones_own_are_ready_once_both_folders_are_there(capsys, tmp_path, asked):
    arguments = ["prepare", *asked, "--data", str(tmp_path)]
    write_images(tmp_path / "imagenet" / "train", 1)
    code, _, err = run(capsys, *arguments)
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"{tmp_path / 'imagenet' / 'val'} is not there" in err
    write_images(tmp_path / "imagenet" / "val", 1)
    code, out, _ = run(capsys, *arguments)
    assert (code, out) == (0, f"imagenet: {tmp_path / 'imagenet'}, 3 classes\n")


def test_a_notebook_without_a_profile_runs_without_one(capsys, monkeypatch):
    called = []
    monkeypatch.setattr(notebooks, "run", lambda *arguments: called.append(arguments))
    assert run(capsys, "notebook", "toys")[0] == 0
    ((_, _, given),) = called
    assert given == {}


@pytest.mark.parametrize("verb", ["tables", "readme", "reproduce", "book"])
def test_what_needs_optional_packages_says_so_first(capsys, monkeypatch, verb):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    code, _, err = run(capsys, verb)
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"need matplotlib: pip install -e '{project_root()}[book]'" in err


@pytest.mark.parametrize(
    ("arguments", "profile"), [((), "paper"), (("--profile", "quick"), "quick")]
)
def test_readme_shows_the_leading_profile_and_says_what_it_wrote(
    capsys, monkeypatch, arguments, profile
):
    given = []
    monkeypatch.setattr(pages, "shown", lambda results: ["paper", "quick"])
    monkeypatch.setattr(readme, "update", lambda *a: given.append(a) or [Path("README.md")])
    assert run(capsys, "readme", *arguments) == (0, "README.md\n", "")
    assert [name for name, *_ in given] == [profile]


@pytest.mark.parametrize(("verb", "kept"), [("run", True), ("tables", False)])
def test_a_full_disk_is_one_line_and_says_what_is_kept_where_runs_are_made(
    capsys, monkeypatch, verb, kept
):
    def full(args):
        with as_disk_error(Path("there")):
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setitem(__main__.VERBS, verb, full)
    code, _, err = run(capsys, verb)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "cannot write there: the disk is full: free some space" in err
    assert ("finished runs are kept" in err) == kept


@pytest.mark.parametrize("verb", ["status", "run"])
def test_records_that_cannot_be_read_are_one_line(capsys, tmp_path, monkeypatch, verb):
    path = store.write(committed(tmp_path, "smoke").runs, {"run_id": "a"})
    for owner, name, closed in (
        (Path, "read_bytes", path),
        (os, "listdir", path.parent),
        (os, "lstat", tmp_path / "smoke"),
    ):
        allowed = getattr(owner, name)

        def refused(at, *rest, closed=closed, allowed=allowed):
            if at == closed:
                raise PermissionError(errno.EACCES, "Permission denied")
            return allowed(at, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refused)
            code, out, err = run(capsys, verb, "--profile", "smoke", "--results", str(tmp_path))
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert "Permission denied" in err
        assert str(closed) in err
    assert path.exists()


@pytest.mark.parametrize(("verb", "continues"), [("run", True), ("tables", False)])
def test_only_what_trains_continues_after_an_interrupt(capsys, monkeypatch, verb, continues):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(__main__.VERBS, verb, interrupted)
    code, _, err = run(capsys, verb)
    assert code == 130
    assert ("the same command continues" in err) == continues


def test_an_unknown_family_lists_the_profiles(capsys):
    code, _, err = run(capsys, "train", "--problem", "vgg")
    assert code == 2
    assert "valid: wrn, resnet, resnext" in err


def test_a_data_set_that_is_absent_says_what_to_run(capsys, tmp_path):
    code, _, err = run(
        capsys, "train", "--dataset", "cifar100", "--data", str(tmp_path), "--epochs", "1"
    )
    assert code == 2
    assert "python -m samlib prepare --dataset cifar100" in err


FEW = 3  # cells of a sweep, ten runs: enough to be interrupted in the middle


def _start(results, *more):
    """The command line's campaign of a few runs, which does not import Ray."""
    # A test run in the background inherits an ignored SIGINT, which Python would rightly keep.
    code = (
        "import signal, sys; from samlib.__main__ import main\n"
        "from samlib.study import cells, plan\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"plan.NEEDS['rho_sweep'] = lambda p: cells.Needs(plan.rho_sweep(p).cells[:{FEW}])\n"
        "code = main(sys.argv[1:]); assert 'ray' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "run", "--profile", "smoke", "--only", "rho_sweep"]
    command += ["--workers", "1", "--results", str(results), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def _wait_for_a_record(results, process, more_than=0):
    for _ in range(1200):
        records_there = list((results / "smoke" / "runs").glob("*.json"))
        if len(records_there) > more_than or process.poll() is not None:
            return
        time.sleep(0.05)
    raise AssertionError("no record after a minute")


@pytest.mark.slow
def test_interrupted_and_killed_campaigns_lose_no_finished_run(tmp_path):
    runs = tmp_path / "smoke" / "runs"
    process = _start(tmp_path)
    _wait_for_a_record(tmp_path, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in err
    after_interrupt = {p.name: p.read_bytes() for p in runs.glob("*.json")}
    assert after_interrupt

    process = _start(tmp_path)
    _wait_for_a_record(tmp_path, process, more_than=len(after_interrupt))
    assert process.poll() is None, "the campaign ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)  # the parent alone: its worker must leave by itself
    process.communicate(timeout=60)

    process = _start(tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    cells = plan.rho_sweep(profiles.get("smoke")).cells[:FEW]
    found = store.read(runs)
    assert not missing_runs(cells, found)
    for name, content in after_interrupt.items():
        assert (runs / name).read_bytes() == content, "a finished run was touched"


@pytest.mark.slow
def test_a_time_budget_that_no_run_fits_says_so_and_is_no_success(tmp_path):
    """Else a queue of short slots would stand still for ever, in silence."""
    process = _start(tmp_path, "--time-budget", "0.001s")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "no run that is left would end within the time budget: give --time-budget more" in err
    assert "0 runs done, 0 failed" in out


def test_a_time_budget_that_ended_is_taken_up_by_the_same_command(tmp_path, capsys):
    outcome = Outcome(done=["a"], skipped=["b", "c"])
    assert cli_run._summary(outcome, committed(tmp_path, "smoke")) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 runs would end after the time budget and were not started")
    assert said.endswith("the same command continues\n1 run done, 0 failed\n")


@pytest.mark.filterwarnings("default")  # the command line prints it
def test_a_damaged_record_is_set_aside_and_run_again(tmp_path, capsys, monkeypatch):
    needs = Needs(plan.introduction(profiles.get("smoke")).cells[:1])
    monkeypatch.setattr(plan, "NEEDS", {"introduction": lambda profile: needs})
    arguments = ["run", "--profile", "smoke", "--results", str(tmp_path), "--workers", "1"]
    place = committed(tmp_path, "smoke")
    for config in missing_runs(needs.cells, {}):
        assert run_job(RunJob(config), place, "cpu", None) is None
    good, bad = sorted(place.runs.glob("*.json"))[:2]
    before = good.read_bytes()
    bad.write_text(bad.read_text().replace('"completed"', '"diverged"'))
    code, out, err = run(capsys, *arguments)
    assert code == 0
    assert "was changed after it was written; moved to" in err
    assert "1 run done" in out
    assert good.read_bytes() == before
    assert (tmp_path / "smoke" / "set_aside" / bad.name).exists()


def test_a_second_campaign_says_who_holds_the_folder(tmp_path, capsys):
    with committed(tmp_path, "smoke").locked():
        code, _, err = run(capsys, "run", "--profile", "smoke", "--results", str(tmp_path))
    assert code == 2
    assert f"process {os.getpid()}" in err


def test_a_plan_that_is_replaced_is_compared_and_a_damaged_one_stops_nothing(tmp_path):
    """Hours of runs come before: what is wrong with the old records must not lose them."""
    smoke, folder = profiles.get("smoke"), ResultsFolder(tmp_path / "smoke")
    assert cli_run._changed_plan(smoke, folder) == []
    folder.path.mkdir()
    (folder.path / "plan.json").write_text("<<<<<<< HEAD")
    (said,) = cli_run._changed_plan(smoke, folder)
    assert "is not compared: " in said
    assert "plan.json is not a whole plan" in said
