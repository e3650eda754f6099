"""`train` on the command line: a run is printed, kept if asked to, and not lost in between."""

import json
import os
from contextlib import contextmanager

import pytest
import torch
from helpers import result, run

from samlib.cli import train as cli_train
from samlib.records import store
from samlib.records.results_folder import committed
from samlib.study import profiles
from samlib.trainer import process_group
from samlib.trainer.one_run import train

TINY = ["--train-size", "40", "--validation-size", "20", "--epochs", "1", "--batch-size", "20"]
SMOKE = ["train", "--profile", "smoke", "--problem", "resnet", "--seed", "3"]
CONFIG = profiles.get("smoke").bases["resnet"].replace(seed=3)


def begun(campaign):
    """Leave the checkpoint of the run's first epoch."""

    def stop(run):
        if run.epoch == 2:
            raise InterruptedError

    path = campaign.checkpoint(CONFIG.run_id)
    with pytest.raises(InterruptedError):
        train(CONFIG, checkpoints=path, checkpoint_seconds=0, on_epoch=stop)


def test_the_record_is_printed(capsys):
    code, out, err = run(capsys, "train", *TINY, "--geometry", "l2", "--rho", "0.1")
    assert code == 0
    record = json.loads(out)
    assert record["config"]["rho"] == 0.1
    assert "epoch 1/1" in err


def test_a_profiles_run_is_kept_as_a_campaign_keeps_it(capsys, tmp_path):
    campaign, weights = committed(tmp_path, "smoke"), tmp_path / "weights.pt"
    code, out, _ = run(capsys, *SMOKE, "--results", str(tmp_path))
    assert code == 0
    train(CONFIG, weights=weights)
    assert json.loads(out)["config"] == CONFIG.to_dict()
    assert list(store.read(campaign.runs)) == [CONFIG.run_id]
    assert campaign.weights(CONFIG.run_id).read_bytes() == weights.read_bytes()


def test_a_run_that_has_a_record_is_not_trained_again(capsys, tmp_path):
    campaign = committed(tmp_path, "smoke")
    first = json.loads(run(capsys, *SMOKE, "--results", str(tmp_path))[1])
    path = campaign.runs / f"{CONFIG.run_id}.json"
    content, made = path.read_bytes(), path.stat().st_mtime_ns
    code, out, err = run(capsys, *SMOKE, "--results", str(tmp_path))
    assert code == 0
    assert json.loads(out) == first
    assert f"already trained: {path}" in err
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, made)
    path.write_bytes(content.replace(b'"completed"', b'"diverged"'))
    code, out, err = run(capsys, *SMOKE, "--results", str(tmp_path))
    assert code == 0
    assert "was changed after it was written; the run is done again" in err
    assert store.read_one(path)["status"] == "completed"


@pytest.mark.parametrize("rank", [0, 1])
def test_no_worker_trains_a_run_that_has_a_record(capsys, tmp_path, monkeypatch, rank):
    """The first looks and tells the others."""
    record = result(run_id=CONFIG.run_id)
    path = store.write(committed(tmp_path, "smoke").runs, record)
    content, sent = path.read_bytes(), []

    def broadcast(objects, src):
        if rank == src:
            sent.append(objects[0])
        else:
            objects[:] = [record]

    @contextmanager
    def join(device):
        yield process_group.Workers(rank, 2, device)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(process_group, "join", join)
    monkeypatch.setattr(process_group.dist, "broadcast_object_list", broadcast)
    code, out, err = run(capsys, *SMOKE, "--results", str(tmp_path))
    assert code == 0
    assert path.read_bytes() == content
    if rank == 0:
        assert json.loads(out) == record == sent[0]
        assert "already trained" in err
    else:
        assert (out, err) == ("", "")


@pytest.mark.parametrize("verb", [["run"], ["train"]])
@pytest.mark.parametrize(
    ("gpus", "device", "says"),
    [
        (0, "cuda", "no CUDA GPU is available here"),
        (2, "cuda", "torchrun has started 4 workers here, and 2 GPUs are available: use --nproc"),
        (4, "cuda:3", "each worker takes a GPU of its own: --device cuda, not cuda:3"),
    ],
)
def test_a_device_that_workers_cannot_share_is_refused(
    capsys, tmp_path, monkeypatch, verb, gpus, device, says
):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    code, _, err = run(capsys, *verb, "--device", device, "--results", str(tmp_path))
    assert (code, len(err.splitlines())) == (2, 1)
    assert says in err


def test_a_run_that_was_cut_short_is_continued(capsys, tmp_path):
    campaign = committed(tmp_path, "smoke")
    begun(campaign)
    code, _, err = run(capsys, *SMOKE, "--results", str(tmp_path))
    assert code == 0
    assert "epoch 2/2" in err
    assert "epoch 1/2" not in err
    assert not campaign.checkpoint(CONFIG.run_id).exists()


@pytest.mark.parametrize("started", [True, False])
def test_an_interrupt_says_whether_there_is_something_to_continue(
    capsys, tmp_path, monkeypatch, started
):
    def interrupted(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_train, "_report", interrupted)
    if started:
        begun(committed(tmp_path, "smoke"))
    code, out, err = run(capsys, *SMOKE, "--results", str(tmp_path))
    assert (code, out) == (130, "")
    assert ("continues from its last checkpoint" in err) == started
    assert ("begins anew" in err) != started


def test_a_disk_that_is_full_in_the_end_costs_no_record(capsys, tmp_path, full_disk):
    full_disk()
    code, out, err = run(capsys, *SMOKE, "--results", str(tmp_path))
    assert code == 2
    assert json.loads(out)["run_id"] == CONFIG.run_id
    last = err.splitlines()[-1]
    assert last.startswith("samlib: the run has ended and its record is on stdout")
    assert last.endswith("No space left on device")


@pytest.mark.parametrize("name", ["smoke", "smoke/runs", "smoke/weights", "smoke/checkpoints"])
def test_nothing_is_trained_for_a_folder_that_cannot_be_written(capsys, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("no folder")
    code, out, err = run(capsys, *SMOKE, "--results", str(tmp_path))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "cannot write" in err


def test_a_folder_that_is_in_use_is_left_alone(capsys, tmp_path):
    with committed(tmp_path, "smoke").locked():
        code, out, err = run(capsys, *SMOKE, "--results", str(tmp_path))
    assert (code, out) == (2, "")
    assert f"process {os.getpid()}" in err
