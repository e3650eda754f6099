"""A folder of results: one writer at a time, one code, and new results in place of the old."""

import os
import subprocess
import sys

import pytest
from conftest import one_line

from samlib.records import store
from samlib.records.results_folder import (
    FolderInUse,
    OtherCode,
    ResultsFolder,
    check_origin,
    committed,
    in_progress,
    replace_committed,
)

# --- the lock ------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path):
    first, second = ResultsFolder(tmp_path / "quick"), ResultsFolder(tmp_path / "quick")
    for _ in range(2):  # given back at the end
        with first.locked():
            with (
                pytest.raises(FolderInUse, match=f"written by process {os.getpid()}: ") as caught,
                second.locked(),
            ):
                pass
            one_line(caught)
            assert first.holder == f"process {os.getpid()}", "kept when another is refused"
            with ResultsFolder(tmp_path / "other").locked():
                pass
        assert first.holder is None
    with second.locked():
        pass


HOLDER = """
import sys, time
from pathlib import Path
from samlib.records.results_folder import ResultsFolder
with ResultsFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_frees_the_lock(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with (
                pytest.raises(FolderInUse, match=f"process {holder.pid}:"),
                ResultsFolder(tmp_path).locked(),
            ):
                pass
        finally:
            holder.kill()
    left = tmp_path / ".plan.json.123.tmp"
    left.write_text("{")
    with ResultsFolder(tmp_path).locked():
        assert not left.exists(), "what it had half written is removed"


# --- the change of old for new -------------------------------------------------------------------


def test_results_in_progress_are_resumed_and_then_replace_the_old_ones_whole(tmp_path):
    old = committed(tmp_path, "quick").runs / "old.json"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    for _ in range(2):
        begun = in_progress(tmp_path, "quick")
        begun.path.mkdir(exist_ok=True)
        check_origin(begun)
    store.write(begun.runs, {"run_id": "new"})
    assert old.exists()
    there = replace_committed(begun, tmp_path, "quick")
    assert [p.name for p in there.runs.iterdir()] == ["new.json"]
    assert [p.name for p in committed(tmp_path, "quick").runs.iterdir()] == ["new.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["quick"]
    assert not (there.path / "campaign.json").exists()


@pytest.mark.parametrize("content", ['{"source": "other"}', "cut sh"])
def test_results_begun_by_other_code_are_refused(tmp_path, content):
    begun = in_progress(tmp_path, "quick")
    begun.path.mkdir()
    check_origin(begun)
    (begun.path / "campaign.json").write_text(content)
    with pytest.raises(OtherCode, match=r"begun by other code.* remove that folder") as caught:
        check_origin(begun)
    assert str(begun.path) in one_line(caught)


def test_a_folder_on_another_disk_is_replaced_by_one_here_as_often_as_wanted(tmp_path):
    there = tmp_path / "large"
    (there / "runs").mkdir(parents=True)
    (there / "runs" / "old.json").write_text("{}")
    results = tmp_path / "results"
    results.mkdir()
    (results / "quick").symlink_to(there)
    for name in ("new", "newer"):
        begun = in_progress(results, "quick")
        store.write(begun.runs, {"run_id": name})
        replace_committed(begun, results, "quick")
        left = committed(results, "quick").runs
        assert [p.name for p in left.iterdir()] == [f"{name}.json"]
        assert [p.name for p in results.iterdir()] == ["quick"]
    assert (there / "runs" / "old.json").exists(), "the link is gone, not what it leads to"


def test_a_reader_repairs_nothing_while_a_campaign_is_put_in_place(tmp_path):
    """Between the two renames the old folder looks as after a crash."""
    (tmp_path / ".old-quick" / "runs").mkdir(parents=True)
    with ResultsFolder(tmp_path / ".campaign-quick").locked():
        committed(tmp_path, "quick")
        assert not (tmp_path / "quick").exists()
    committed(tmp_path, "quick")
    assert (tmp_path / "quick" / "runs").exists()


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path):
    runs = tmp_path / ".old-smoke" / "runs"
    runs.mkdir(parents=True)
    (runs / "old.json").write_text("{}")
    assert [p.name for p in committed(tmp_path, "smoke").runs.iterdir()] == ["old.json"]
