"""Records: whole, checked, refused when changed, and never half written."""

import errno
import json
import math
import os
import warnings
from pathlib import Path

import pytest
from conftest import one_line
from helpers import result, without_times

from samlib.files import DiskError, write_atomically
from samlib.records import store
from samlib.records.results_folder import ResultsFolder
from samlib.records.store import RecordError, UnreadableError


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "quick" / "runs"


def edit(path, **changes):
    """Change a record on disk and leave its checksum."""
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "empty": lambda path: path.write_bytes(b""),
    "no object": lambda path: path.write_text("[1, 2]"),
    "no format": lambda path: path.write_text("{}"),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "number": lambda path: edit(path, test_accuracy=99.0),
    "last digit": lambda path: edit(path, validation_accuracy=80.123456788),
    "curve": lambda path: edit(path, curves={"train_accuracy": [50.0, 75.5], "norm_share": []}),
    "time": lambda path: edit(path, times={"wall": 2.4, "epochs": [1.0, 1.5]}),
    "new field": lambda path: edit(path, note="better"),
    "checksum": lambda path: edit(path, checksum="0" * 64),
    "no checksum": lambda path: edit(path, checksum=None),
    "format alone": lambda path: edit(path, format=3),
    "not a number": lambda path: edit(path, test_accuracy=math.nan),
    "one byte": lambda path: path.write_bytes(path.read_bytes().replace(b"81.25", b"81.35")),
}
damaged = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


def test_round_trip(runs):
    written = result()
    path = store.write(runs, written)
    assert path == runs / f"{written['run_id']}.json"
    record = store.read_one(path)
    assert {k: v for k, v in record.items() if k not in ("format", "checksum")} == written
    assert store.read(runs) == {written["run_id"]: record}
    rest = {key: value for key, value in written.items() if key != "times"}
    assert without_times(record) == {"format": store.FORMAT, **rest}, "what must repeat"
    assert [p.name for p in runs.iterdir()] == [path.name]
    assert store.write(runs, written).read_bytes() == path.read_bytes()


def test_a_folder_that_is_not_there_has_no_records(runs):
    assert store.read(runs) == {}


def test_a_path_may_be_a_string(runs):
    path = store.write(runs, result())
    assert store.read(str(runs)) == {path.stem: store.read_one(str(path))}


@damaged
def test_a_damaged_record_is_an_error_with_its_name(runs, damage):
    path = store.write(runs, result())
    damage(path)
    with pytest.raises(RecordError, match=r"is not a whole record|was changed after") as caught:
        store.read_one(path)
    assert str(path) in one_line(caught)


def test_a_record_under_another_name_is_refused(runs):
    path = store.write(runs, result())
    other = path.rename(path.with_name(f"{result(1)['run_id']}.json"))
    with pytest.raises(RecordError, match=f"is not named as its run, {result()['run_id']}"):
        store.read_one(other)


@damaged
@pytest.mark.parametrize("set_aside", [True, False])
def test_damaged_records_count_as_missing_and_others_stay(runs, damage, set_aside):
    bad, good = (store.write(runs, result(seed)) for seed in (0, 1))
    damage(bad)
    content = bad.read_bytes(), good.read_bytes()
    with pytest.warns(UserWarning, match="its run") as caught:
        read = store.read(runs, set_aside=set_aside)
    (message,) = {str(w.message) for w in caught}
    assert str(bad) in message
    assert "\n" not in message
    assert list(read) == [good.stem]
    assert good.read_bytes() == content[1]
    aside = runs.parent / "set_aside" / bad.name
    assert bad.exists() == (not set_aside)
    assert aside.exists() == set_aside
    assert (aside if set_aside else bad).read_bytes() == content[0]
    assert (str(aside) in message) == set_aside
    if set_aside:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert list(store.read(runs)) == [good.stem]


def test_damaged_measurements_of_one_run_are_kept_apart_where_git_ignores_them(tmp_path):
    place = ResultsFolder(tmp_path / "quick")
    aside = place.path / "set_aside"
    for folder, kept in (
        (place.runs, aside),
        (place.measures("sharpness"), aside / "sharpness"),
        (place.measures("curvature"), aside / "curvature"),
    ):
        bad = store.write(folder, result())
        bad.write_text(f"cut sh {folder.name}")
        with pytest.warns(UserWarning, match=f"moved to {kept / bad.name}"):
            store.read(folder, set_aside=True)
    assert {path.read_text() for path in aside.rglob("*.json")} == {
        "cut sh runs",
        "cut sh sharpness",
        "cut sh curvature",
    }


@pytest.mark.parametrize("claimed", [0, 2, "1", None])
@pytest.mark.parametrize("set_aside", [True, False])
def test_another_format_is_one_clear_error(runs, claimed, set_aside):
    path = store.write(runs, result())
    edit(path, format=claimed, checksum="by another rule")
    with pytest.raises(RecordError) as caught:
        store.read(runs, set_aside=set_aside)
    message = one_line(caught)
    for part in (str(path), f"format {claimed!r}", "this version reads 1", "make reproduce"):
        assert part in message
    assert path.exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("set_aside", [True, False])
def test_a_record_that_cannot_be_read_may_be_whole_and_stays(runs, monkeypatch, number, set_aside):
    path, read_bytes = store.write(runs, result()), Path.read_bytes

    def refused(at):
        if at == path:
            raise OSError(number, os.strerror(number))
        return read_bytes(at)

    monkeypatch.setattr(Path, "read_bytes", refused)
    for call in (
        lambda: store.read_one(path),
        lambda: store.read(runs, set_aside=set_aside),
    ):
        with pytest.raises(UnreadableError, match=f"{os.strerror(number)}; make it") as caught:
            call()
        assert str(path) in one_line(caught)
    assert path.exists()


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(runs, monkeypatch):
    def refused(folder):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "listdir", refused)
    with pytest.raises(UnreadableError, match="Permission denied; make it readable") as caught:
        store.read(runs)
    assert str(runs) in one_line(caught)


def test_a_record_moved_while_the_folder_is_read_is_not_there(runs, monkeypatch):
    path = store.write(runs, result())
    monkeypatch.setattr(os, "listdir", lambda folder: [path.name, "moved.json"])
    assert list(store.read(runs)) == [path.stem]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_records_hold_no_nan(runs, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write(runs, result(test_accuracy=value))
    assert not runs.exists()


# --- the disk ------------------------------------------------------------------------------------


def test_a_full_disk_is_one_clear_error_and_leaves_the_rest(runs, full_disk):
    kept = store.write(runs, result())
    content = kept.read_bytes()
    full_disk()
    for again in (0, 1):
        with pytest.raises(DiskError, match="the disk is full: free some space") as caught:
            store.write(runs, result(again, test_accuracy=1.0))
        one_line(caught)
    assert [p.name for p in runs.iterdir()] == [kept.name]
    assert kept.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "quick").write_text("a file in the way")
    with pytest.raises(DiskError, match="cannot write") as caught:
        store.write(tmp_path / "quick" / "runs", result())
    one_line(caught)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_clear_error(runs):
    runs.mkdir(parents=True)
    runs.chmod(0o500)
    with pytest.raises(DiskError, match=r"no permission .* another folder"):
        store.write(runs, result())
    assert list(runs.iterdir()) == []


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ({"wall": 7.0, "epochs": [2.0, 2.0, 2.0]}, 7.0),
        ({"wall": 107.0, "epochs": [2.0, 102.0, 2.0]}, 7.0),  # paused in its second epoch
        ({"wall": 3.0, "epochs": [2.0, 2.0, 2.0]}, 6.0),  # continued by another process
        ({"wall": 3.0}, 3.0),  # a measurement
    ],
)
def test_seconds_are_those_of_an_undisturbed_run(times, seconds):
    assert store.seconds({"times": times}) == seconds


def test_writing_replaces_at_once(tmp_path, monkeypatch):
    """Whoever looks sees the old content or the new, and at the new only after a flush to disk."""
    path, order = tmp_path / "file", []
    path.write_bytes(b"old")
    fsync, replace = os.fsync, os.replace

    def note(name, call):
        def noted(*arguments):
            order.append((name, path.read_bytes()))
            call(*arguments)

        return noted

    monkeypatch.setattr(os, "fsync", note("fsync", fsync))
    monkeypatch.setattr(os, "replace", note("replace", replace))
    write_atomically(path, b"new")
    assert order == [("fsync", b"old"), ("replace", b"old"), ("fsync", b"new")]
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
