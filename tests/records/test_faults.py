"""Runs survive: a short version of `torture`, and the faults that need no campaign of their own."""

import errno
import os
import random
import threading
import time
import warnings

import filelock
import pytest
import torture
from conftest import one_line, repeatable
from helpers import result

from samlib.campaign.jobs import RunJob, run_job
from samlib.files import DiskError
from samlib.records import lock, results_folder, store
from samlib.records.results_folder import FolderInUse, ResultsFolder
from samlib.records.store import FormatError, RecordError
from samlib.trainer import checkpoint
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import train


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with torture.Bench(tmp_path_factory.mktemp("torture")) as bench:
        yield bench


@pytest.mark.slow
def test_a_campaign_killed_three_times_ends_as_an_undisturbed_one(bench):
    torture.kills(bench, 3)
    assert (bench.injected, bench.lost, bench.wrong) == (3, 0, 0)


@pytest.mark.slow
def test_a_lost_and_a_wrong_record_are_counted(bench):
    results = bench.copy()
    runs = ResultsFolder(results / "tiny").runs
    lost, wrong = sorted(runs.glob("*-l2-*.json"))[:2]
    lost.unlink()
    store.write(runs, store.read_one(wrong) | {"test_accuracy": 99.0})
    before = bench.lost, bench.wrong
    bench.judge(results)
    assert (bench.lost - before[0], bench.wrong - before[1]) == (1, 1)


# --- the disk ------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own: its folder, and a function that changes its options."""
    try:
        with torture.small_disk(tmp_path, "size=1m") as made:
            yield made
    except torture.Skipped as reason:
        pytest.skip(str(reason))


def test_a_disk_without_a_free_byte_can_still_be_locked_and_read(disk):
    folder, _ = disk
    kept = store.write(folder / "quick" / "runs", result())
    ballast = torture.fill(folder)
    place = ResultsFolder(folder / "quick")
    with place.locked():
        assert place.holder == "another process"
        with pytest.raises(DiskError, match="the disk is full: free some space") as caught:
            store.write(place.runs, result(1))
        one_line(caught)
    assert [path.name for path in place.runs.iterdir()] == [kept.name]
    assert list(store.read(place.runs)) == [kept.stem]
    ballast.unlink()
    store.write(place.runs, result(1))
    with place.locked():
        assert place.holder == f"process {os.getpid()}"


def test_a_read_only_disk_is_one_clear_error_whatever_is_tried(disk):
    folder, remount = disk
    place = ResultsFolder(folder / "quick")
    good, bad = (store.write(place.runs, result(seed)) for seed in (0, 1))
    bad.write_text("cut sh")
    checkpoint.save(place.checkpoint("run"), {"epoch": 1})
    begun = results_folder.in_progress(folder, "quick")
    begun.path.mkdir()
    remount("ro")
    tries = (
        lambda: store.write(place.runs, result(2)),
        lambda: store.read(place.runs, set_aside=True),
        lambda: checkpoint.save(place.checkpoint("run"), {"epoch": 2}),
        lambda: place.locked().__enter__(),
        lambda: results_folder.replace_committed(
            results_folder.in_progress(folder, "quick"), folder, "quick"
        ),
    )
    for attempt in tries:
        with pytest.raises(DiskError, match=r"(?i)read-only file system|system is read-only") as no:
            attempt()
        one_line(no)
    remount("rw")
    assert checkpoint.load(place.checkpoint("run")) == {"epoch": 1}
    assert store.read_one(good)
    assert bad.exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_one_clear_error(tmp_path, monkeypatch, number):
    def no_locks(descriptor, blocking):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock, "lock_descriptor", no_locks)
    place = ResultsFolder(tmp_path / "quick")
    with pytest.raises(DiskError, match="choose a folder on a file system with locks") as caught:
        place.locked().__enter__()
    assert str(place.path) in one_line(caught)
    assert place.holder is None


def test_what_a_killed_writer_left_half_written_is_removed(tmp_path):
    """By the next command, and by the one whose worker it was."""
    place = ResultsFolder(tmp_path)
    folders = [place.runs, place.weights("x").parent, place.checkpoint("x").parent]
    folders.append(place.measures("sharpness"))
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "x.json").write_text("whole")

    def is_killed() -> None:
        for folder in folders:
            (folder / ".x.json.123.tmp").write_text("cut sh")

    def files() -> list[str]:
        return sorted(path.name for path in tmp_path.rglob("*") if path.is_file())

    whole = [".lock"] + ["x.json"] * 4
    is_killed()
    with place.locked():
        assert files() == whole
        is_killed()
    assert files() == whole


# --- flipped bits --------------------------------------------------------------------------------


def test_a_bit_flipped_anywhere_in_a_record_is_noticed(tmp_path):
    """And taken for damage, never for another format, which would stop the whole campaign."""
    path = store.write(tmp_path, result())
    good, record = path.read_bytes(), store.read_one(path)
    # Every bit of the format's number, which comes first, and one bit of every other byte.
    bits = [(p, bit) for p in range(15) for bit in range(8)]
    for position, bit in [*bits, *((p, p % 8) for p in range(15, len(good)))]:
        content = bytearray(good)
        content[position] ^= 1 << bit
        path.write_bytes(content)
        try:
            found = store.read_one(path)
        except FormatError:
            pytest.fail(f"another format: {content[position - 20 : position + 20]}")
        except RecordError:
            continue
        assert found == record


def test_a_bit_flipped_in_the_structure_of_a_data_cache_is_refused_or_harmless(tmp_path):
    with torture.small_cache(tmp_path) as (path, arrays):
        assert torture.loads_alike(path, arrays)
        good, refused = path.read_bytes(), 0
        # Its directory of arrays is at the end, the first one's header at the beginning.
        places = [*range(200), *range(good.index(b"PK\x01\x02"), len(good))]
        for position in places:
            content = bytearray(good)
            content[position] ^= 1 << random.Random(position).randrange(8)
            path.write_bytes(content)
            refused += not torture.loads_alike(path, arrays)
    assert refused > len(places) / 2


# --- the clock -----------------------------------------------------------------------------------


def test_nothing_depends_on_the_clock(tmp_path, monkeypatch):
    config = RunConfig(train_size=64, validation_size=20, epochs=2, batch_size=32)
    place, looks = ResultsFolder(tmp_path), []
    monkeypatch.setattr(time, "time", lambda: looks.append(0) or 1e9 - 86_400 * len(looks))
    with place.locked():
        assert run_job(RunJob(config), place, "cpu", None) is None
    (path,) = place.runs.iterdir()
    for file in tmp_path.rglob("*"):
        os.utime(file, (2**32, 2**32))  # the year 2106
    (record,) = store.read(place.runs).values()
    assert repeatable(record) == repeatable({"format": store.FORMAT, **train(config)})
    assert looks
    assert checkpoint.load(place.weights(path.stem))
    with place.locked():
        assert list(store.read(place.runs, set_aside=True)) == [path.stem]


# --- two at once ---------------------------------------------------------------------------------


def test_of_many_at_once_one_holds_the_folder_and_the_others_say_who(tmp_path):
    start, done = threading.Barrier(8), threading.Barrier(8)
    told = []

    def begin():
        start.wait()
        try:
            with ResultsFolder(tmp_path / "quick").locked():
                told.append(None)
                done.wait()
        except FolderInUse as error:
            told.append(str(error))
            done.wait()

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told.count(None) == 1
    assert sum(f"is being written by process {os.getpid()}: wait" in (t or "") for t in told) == 7


def test_a_lock_that_moved_with_its_folder_is_not_taken_for_the_new_ones(tmp_path, monkeypatch):
    """Between opening the lock and holding it, the holder put its campaign in place."""
    begun = results_folder.in_progress(tmp_path, "quick")
    begun.path.mkdir()

    def moved_before(descriptor, blocking):
        if begun.path.exists():
            results_folder.replace_committed(begun, tmp_path, "quick")
        return filelock.lock_descriptor(descriptor, blocking=blocking)

    monkeypatch.setattr(lock, "lock_descriptor", moved_before)
    with pytest.raises(FolderInUse, match="is being written"), begun.locked():
        pass


def test_a_lock_file_of_any_bytes_is_told_in_one_line(tmp_path):
    place = ResultsFolder(tmp_path)
    (tmp_path / ".lock").write_bytes(b"\xff\xfe\x00")
    with open(tmp_path / ".lock", "rb") as other:
        assert filelock.lock_descriptor(other.fileno(), blocking=False)
        assert place.holder
        with pytest.raises(FolderInUse, match="wait for it or stop it") as caught, place.locked():
            pass
        one_line(caught)


# --- crashes of the change of old for new --------------------------------------------------------


@pytest.mark.parametrize("step", range(8))
def test_whenever_a_campaign_dies_while_put_in_place_one_whole_set_is_there(
    tmp_path, monkeypatch, step
):
    class Killed(BaseException):
        pass

    for folder, name in ((results_folder.committed, "old"), (results_folder.in_progress, "new")):
        store.write(folder(tmp_path, "quick").runs, {"run_id": name})
    begun, steps = results_folder.in_progress(tmp_path, "quick"), []

    def counted(call):
        def counting(*arguments, **options):
            if len(steps) == step:
                raise Killed
            steps.append(call)
            return call(*arguments, **options)

        return counting

    with monkeypatch.context() as patch, warnings.catch_warnings():
        for name in ("rename", "unlink"):
            patch.setattr(results_folder.Path, name, counted(getattr(results_folder.Path, name)))
        patch.setattr(results_folder.shutil, "rmtree", counted(results_folder.shutil.rmtree))
        died = True
        try:
            results_folder.replace_committed(begun, tmp_path, "quick")
            died = False
        except Killed:
            pass
    assert died == (len(steps) == step)
    there = list(store.read(results_folder.committed(tmp_path, "quick").runs))
    again = results_folder.in_progress(tmp_path, "quick")
    if there == ["old"]:
        results_folder.replace_committed(again, tmp_path, "quick")
    assert list(store.read(results_folder.committed(tmp_path, "quick").runs)) == ["new"]
