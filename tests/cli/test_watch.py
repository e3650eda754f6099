"""What runs say while they run, and a campaign seen live: nothing stale, no codes in pipes."""

import errno
import fcntl
import io
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from conftest import repeatable
from made_up import PROFILE, made_up, made_up_results

from samlib.__main__ import main
from samlib.campaign.jobs import RunJob, run_job
from samlib.cli import watch
from samlib.measures.measurement import MEASURES, MeasureJob
from samlib.records import journal, store
from samlib.records.results_folder import ResultsFolder, committed, in_progress, replace_committed
from samlib.study import plan
from samlib.study.cells import Needs
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import train

TINY = RunConfig(train_size=64, validation_size=20, epochs=3, batch_size=32, eval_every=2)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    return made_up_results(tmp_path_factory.mktemp("results"))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def looked(folder):
    lines, ended = watch.Look(PROFILE, folder)()
    return "\n".join(lines), ended


def first_runs():
    (cell, *_) = plan.introduction(PROFILE).cells
    return list(cell.runs({}))


# --- the log of a run ----------------------------------------------------------------------------


def test_a_log_tells_what_where_every_epoch_and_the_end(tmp_path):
    place = ResultsFolder(tmp_path)
    assert run_job(RunJob(TINY), place, "cpu", None) is None
    (record,) = store.read(place.runs).values()
    head, config, *epochs, end = place.log(TINY.run_id).read_text().splitlines()
    assert f"{TINY.run_id}: 3 epochs on cpu, process " in head
    assert json.loads(config) == TINY.to_dict()
    for number, line in enumerate(epochs):
        assert line.startswith(
            f"epoch {number + 1}/3: loss {record['curves']['train_loss'][number]:.4f}"
        )
        assert ("test accuracy" in line) == (number > 0), "evaluated every second epoch, and last"
        assert ("validation accuracy" in line) == (number > 0)
        assert line.endswith(f" {record['times']['epochs'][number]:.2f} s")
    assert f"completed: test accuracy {record['test_accuracy']:.2f} %" in end
    alone = {"format": store.FORMAT, **train(TINY)}
    assert repeatable(record) == repeatable(alone), "telling changes nothing"


def test_a_diverged_run_says_so(tmp_path):
    config = TINY.replace(lr=1e30)
    assert run_job(RunJob(config), ResultsFolder(tmp_path), "cpu", None) is None
    text = ResultsFolder(tmp_path).log(config.run_id).read_text()
    assert "diverged in epoch" in text.splitlines()[-1]


def test_a_log_that_cannot_be_written_costs_nothing(tmp_path):
    place = ResultsFolder(tmp_path)
    place.logs.write_text("a file where the folder should be")
    assert run_job(RunJob(TINY), place, "cpu", None) is None
    assert len(store.read(place.runs)) == 1


def test_a_failed_run_is_told_with_the_last_lines_of_its_log(tmp_path):
    place = ResultsFolder(tmp_path)
    config = RunConfig(dataset="cifar10")
    reason = run_job(RunJob(config), place, "cpu", tmp_path)
    text = journal.failure_text(place, config.run_id, reason)
    first, *lines, last = text.splitlines()
    assert first == f"failed: {config.run_id}: {reason}"
    assert "prepare --dataset cifar10" in reason
    assert 2 <= len(lines) <= 5
    assert all(line.startswith("  | ") for line in lines)
    assert "failed: " in lines[-1]
    assert last == f"  log: {place.log(config.run_id)}"
    assert journal.failure_text(place, "other", "why") == "failed: other: why"


# --- who is at work ------------------------------------------------------------------------------


def test_a_run_is_seen_while_it_runs_and_gone_after(tmp_path, monkeypatch):
    place, seen = ResultsFolder(tmp_path), []

    def watched(config, *, on_epoch, **options):
        seen.extend(journal.running(place))

        def each(run):
            on_epoch(run)
            seen.extend(journal.running(place))

        return train(config, on_epoch=each, **options)

    monkeypatch.setattr("samlib.campaign.jobs.train", watched)
    assert run_job(RunJob(TINY), place, "cpu", None) is None
    (record,) = store.read(place.runs).values()
    assert [note["epoch"] for note in seen] == [None, 1, 2, 3]
    assert {note["run_id"] for note in seen} == {TINY.run_id}
    accuracies = record["curves"]["test_accuracy"]
    assert [note["accuracy"] for note in seen] == [None, None, *accuracies[1:]]
    assert journal.running(place) == []
    assert not list((place.logs / "running").iterdir())


def test_a_note_left_behind_by_a_crash_is_not_believed(tmp_path):
    place = ResultsFolder(tmp_path)
    with journal.Journal(place, TINY.run_id, TINY, "cpu"):
        (note,) = (place.logs / "running").glob("*.json")
        note.with_name("left.json").write_bytes(note.read_bytes())
        assert [job["run_id"] for job in journal.running(place)] == [TINY.run_id]
    assert journal.running(place) == []
    journal.begin(place)
    assert [path.name for path in place.logs.iterdir()] == [f"{TINY.run_id}.log"]


def test_failures_are_told_to_others_until_the_next_command(tmp_path):
    place = ResultsFolder(tmp_path)
    assert journal.failures(place) == {}
    journal.note_failure(place, "a", "first\nsecond")
    with open(place.logs / "failed.jsonl", "a") as handle:
        handle.write('7\n{"run_id": "b"}\n{"run_id": "cut sh')
    with open(place.logs / "failed.jsonl", "ab") as handle:
        handle.write(b"\xff\xfe")
    assert journal.failures(place) == {"a": "first\nsecond"}, "whatever else is in the file"
    journal.begin(place)
    assert journal.failures(place) == {}


def test_looking_does_not_keep_a_writer_out(tmp_path):
    place = ResultsFolder(tmp_path)
    assert place.holder is None
    with place.locked():
        assert place.holder.startswith("process ")
    assert place.holder is None
    with open(tmp_path / ".lock", "rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        threading.Timer(0.02, fcntl.flock, (handle, fcntl.LOCK_UN)).start()
        with place.locked():
            pass


# --- the live view -------------------------------------------------------------------------------


def test_a_complete_campaign_is_shown_once_without_escape_codes(complete, capsys):
    arguments = ["--profile", "smoke", "--results", str(complete)]
    assert main(["status", "--watch", *arguments]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert "\x1b" not in out
    assert "\r" not in out
    assert out.count("profile smoke in") == 1
    assert "\ncomplete\n" in out
    assert "0 failed, 0m00s left" in out
    assert main(["status", *arguments]) == 0
    plain, _ = capsys.readouterr()
    assert plain.split("\n", 1)[1].strip() in out, "the same table"


def test_ctrl_c_is_one_line_and_130(tmp_path, monkeypatch):
    def interrupt(seconds):
        assert seconds == 7
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    stream = io.StringIO()
    assert watch.watch(PROFILE, tmp_path, every=7, stream=stream) == 130
    shown, rest = stream.getvalue().split("\n\nsamlib: ")
    assert "no process writes to the folder; `python -m samlib run --profile smoke" in shown
    assert rest == "no longer watching; the campaign is left alone\n"


def test_running_and_failed_are_shown_with_epoch_and_reason(tmp_path):
    target = committed(tmp_path, "smoke")
    done, other = first_runs()[:2]
    store.write(target.runs, made_up(done))
    journal.note_failure(target, other.run_id, "out of luck\nand more")
    journal.note_failure(target, done.run_id, "it has a record by now")
    with target.locked(), journal.Journal(target, "job", TINY, "cpu") as log:
        text, ended = looked(tmp_path)
        assert not ended
        assert "writes to the folder" in text
        assert "1 running, 1 failed" in text
        assert f"  {other.run_id}: out of luck\n" in text
        assert str(target.logs) in text
        assert "it has a record" not in text
        log._state |= {"epoch": 2, "accuracy": 51.0}
        log._write_note()
        assert "2/3   51.00 %" in looked(tmp_path)[0]
    assert "0 running, 1 failed" in looked(tmp_path)[0]
    assert "no process writes to the folder" in looked(tmp_path)[0]


def test_a_new_campaign_is_shown_while_it_is_worked_on(complete, tmp_path):
    results = shutil.copytree(complete, tmp_path / "results")
    new = in_progress(results, "smoke")
    look = watch.Look(PROFILE, results)
    with new.locked():
        for view in (look, watch.Look(PROFILE, results)):
            lines, ended = view()
            assert lines[0].endswith(f"in {new.path}")
            assert lines[1].startswith("process ")
            assert not ended
    lines, ended = look()  # stopped: what failed in it stays in view
    assert lines[0].endswith(f"in {new.path}")
    assert lines[1].startswith("no process writes to the folder; `python -m samlib reproduce")
    assert not ended
    text, ended = looked(results)
    assert f"in {results / 'smoke'}\ncomplete\n" in text
    assert f"an unfinished new campaign is in {new.path}" in text
    assert ended
    replace_committed(new, results, "smoke")
    lines, _ = look()
    assert lines[0].endswith(f"in {results / 'smoke'}")


def test_looking_mends_nothing(tmp_path):
    (tmp_path / ".old-smoke").mkdir()
    looked(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".old-smoke"]


def test_a_record_is_read_again_only_when_it_has_changed(tmp_path, monkeypatch):
    runs, calls = first_runs()[:2], []
    paths = [store.write(tmp_path, made_up(run)) for run in runs]
    one = store.read_one
    monkeypatch.setattr(store, "read_one", lambda path: calls.append(path) or one(path))
    cache = watch.Cache()
    for _ in range(2):
        assert set(cache.read(tmp_path)) == {run.run_id for run in runs}
    assert sorted(calls) == sorted(paths)
    paths[0].write_text("cut sh")
    assert set(cache.read(tmp_path)) == {runs[1].run_id}
    paths[1].unlink()
    assert cache.read(tmp_path) == {}
    paths[1].write_text('{"format": 0}')
    with pytest.raises(store.FormatError):
        cache.read(tmp_path)


@pytest.mark.parametrize("closed", ["listdir", "a record"])
def test_what_cannot_be_read_is_not_shown_as_missing(tmp_path, monkeypatch, closed):
    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    store.write(tmp_path, made_up(first_runs()[0]))
    if closed == "listdir":
        monkeypatch.setattr(os, "listdir", refused)
    else:
        monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(store.UnreadableError, match="Permission denied"):
        watch.Cache().read(tmp_path)


def test_a_terminal_is_drawn_over_and_not_overfilled(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "6")
    stream = Terminal()
    screen = watch.Screen(stream)
    screen.show(["short", "x" * 50])
    first = stream.getvalue()
    assert "x" * 19 + "\x1b[K\n" in first
    assert "x" * 20 not in first
    screen.show([str(i) for i in range(9)])
    second = stream.getvalue()[len(first) :]
    assert second.startswith("\r\x1b[2F")
    assert second.count("\n") == 5
    assert "... 5 more lines" in second
    screen.show(["y" * 50], whole=True)
    assert "\x1b[5F" + "y" * 50 in stream.getvalue()


# --- all of it together --------------------------------------------------------------------------


def test_a_failing_run_shows_why_where_it_stopped(tmp_path, capsys, monkeypatch):
    cells = plan.introduction(PROFILE).cells[:1]
    monkeypatch.setattr(plan, "NEEDS", {"introduction": lambda profile: Needs(cells)})
    target = committed(tmp_path, "smoke")
    run = first_runs()[0]
    target.checkpoint(run.run_id).mkdir(parents=True)  # cannot be read as a checkpoint
    arguments = ["--profile", "smoke", "--results", str(tmp_path)]
    assert main(["run", *arguments, "--workers", "1"]) == 1
    out, err = capsys.readouterr()
    summary = err[err.rindex(f"failed: {run.run_id}: IsADirectoryError: ") :].splitlines()
    assert summary[-2].startswith("  | IsADirectoryError: ")
    assert summary[-1] == f"  log: {target.log(run.run_id)}"
    done = len(first_runs()) - 1
    assert f"{done} run{'s' * (done != 1)} done, 1 failed" in out
    text, ended = looked(tmp_path)
    assert f"  {run.run_id}: IsADirectoryError: " in text
    assert not ended

    target.checkpoint(run.run_id).rmdir()
    assert main(["run", *arguments, "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["status", "--watch", *arguments]) == 0
    assert "0 running, 0 failed" in capsys.readouterr().out
    assert journal.failures(target) == {}


def test_a_measurement_has_a_log_too(tmp_path, monkeypatch):
    monkeypatch.setitem(MEASURES, "sharpness", lambda run: {})
    place = ResultsFolder(tmp_path)
    assert run_job(RunJob(TINY), place, "cpu", None) is None
    place.weights(TINY.run_id).unlink()
    job = MeasureJob(TINY, "sharpness")
    assert run_job(job, place, "cpu", None) is None
    text = place.log(job.name).read_text()
    assert "epoch 3/3" in text, "its weights are gone: the run is repeated"
    assert text.rstrip().endswith("measured")
