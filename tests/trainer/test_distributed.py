"""Data parallel: two gloo processes against one, checkpoints, and what is refused."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from conftest import one_line
from helpers import write_images
from parallel_worker import launch

from samlib import geometry
from samlib.data.splits import make_splits, normalize
from samlib.errors import ConfigError
from samlib.records import journal, store
from samlib.records.results_folder import ResultsFolder
from samlib.sam.ascent import ascent, gradients
from samlib.sam.masks.by_name import MASKS
from samlib.sam.perturbation import Perturbation
from samlib.trainer import checkpoint, distributed, process_group
from samlib.trainer.build import build_model, build_optimizer, build_scheduler
from samlib.trainer.config import RunConfig
from samlib.trainer.loop import OtherWorkers
from samlib.trainer.one_run import train

VIT = {  # layer norm: no statistics of a share that differ from those of the batch
    "model": "vit_micro",
    "train_size": 70,
    "validation_size": 20,
    "epochs": 2,
    "eval_every": 2,
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 1e-3,
    "clip_norm": 1.0,
    "warmup_epochs": 1,
}
SAM = {"geometry": "l2", "rho": 0.5, "mask": "only_norm"}


def torchrun(*program):
    """The command for a program on two workers, and its environment."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", *map(str, program)]
    return {"args": command, "env": os.environ | {"OMP_NUM_THREADS": "1"}}


def near(a, b):
    """Whether two records tell of the same run, but for the order of additions."""
    for name in ("train_loss", "train_accuracy", "validation_accuracy", "test_accuracy"):
        mine, theirs = ([v for v in r["curves"][name] if v is not None] for r in (a, b))
        assert mine == pytest.approx(theirs, rel=2e-4, abs=1e-6), name
    return True


@pytest.mark.slow
def test_two_workers_are_one_process_where_they_should_be(tmp_path):
    elementwise = VIT | SAM | {"geometry": "elementwise_l2", "mask": "all", "rho": 0.3}
    jobs = [
        {"config": VIT},
        {"config": VIT | SAM, "perturbation": "synchronised"},
        {"config": elementwise, "perturbation": "synchronised"},
        {"config": VIT | SAM, "perturbation": "worker"},
        {"config": VIT | SAM | {"batch_size": 27}, "perturbation": "worker"},
        {"config": VIT | SAM | {"mask": "dynamic"}, "perturbation": "worker"},
        {"config": VIT | {"batch_size": 69}},
        {"config": VIT | {"validation_size": 1}},  # of which the second worker has none
    ]
    found = launch(tmp_path, jobs)
    for job, record in list(zip(jobs, found, strict=True))[:3]:
        assert near(record, train(RunConfig(**job["config"])))
        assert record["parallel"] == {
            "workers": 2,
            "perturbation": job.get("perturbation", "worker"),
        }
    alone = train(RunConfig(**VIT, **SAM))
    assert found[3]["curves"]["train_loss"] != pytest.approx(
        alone["curves"]["train_loss"], rel=1e-5
    ), "each worker perturbs for its own share"
    assert found[3]["curves"]["train_loss"] == pytest.approx(by_hand(RunConfig(**VIT, **SAM)))
    assert found[4]["curves"]["train_loss"] == pytest.approx(
        by_hand(RunConfig(**VIT | {"batch_size": 27}, **SAM))
    ), "shares of unequal size"
    assert "must be synchronised" in found[5]["error"]
    assert "the last batch of an epoch has 1 images, fewer than 2 workers" in found[6]["error"]
    assert near(found[7], train(RunConfig(**jobs[7]["config"])))


def by_hand(config, workers=2):
    """The loss curve of SAM with a perturbation per share, spelt out in one process."""
    splits = make_splits("digits", seed=0, train_size=70, validation_size=20)
    model = build_model(config)
    optimizer = build_optimizer(config, model)
    scheduler = build_scheduler(config, optimizer)
    step = Perturbation(geometry.L2(), config.rho, MASKS[config.mask](model, config))
    order, draws = (torch.Generator().manual_seed(s) for s in (0, 1_000_003))
    losses = []
    for _ in range(config.epochs):
        total = 0.0
        for images, y in splits.train_batches("none", config.batch_size, order, draws):
            x = normalize(images, splits.info)
            averaged = [torch.zeros_like(p) for p in model.parameters()]
            for rank in range(workers):
                mine = slice(rank, None, workers)
                weight = len(y[mine]) / len(y)

                def loss(x=x[mine], y=y[mine]):
                    return F.cross_entropy(model(x), y, label_smoothing=0.1)

                model.train()
                first = loss()
                eps = ascent(step, gradients(step, first)).eps
                total += first.item() * len(y[mine])
                tensors = [e.parameter for e in step.mask.entries]
                with torch.no_grad():
                    kept = [p.clone() for p in tensors]
                    for p, e in zip(tensors, eps, strict=True):
                        p.add_(e)
                grads = torch.autograd.grad(loss(), list(model.parameters()))
                with torch.no_grad():
                    for p, k in zip(tensors, kept, strict=True):
                        p.copy_(k)
                    for a, g in zip(averaged, grads, strict=True):
                        a.add_(g, alpha=weight)
            for p, g in zip(model.parameters(), averaged, strict=True):
                p.grad = g
            optimizer.step()
        scheduler.step()
        losses.append(total / 70)
    return losses


@pytest.mark.slow
def test_a_checkpoint_is_continued_by_as_many_workers_only(tmp_path):
    path, alone = tmp_path / "c.pt", tmp_path / "alone.pt"
    job = {"config": VIT | SAM | {"epochs": 3}, "checkpoints": str(path)}
    config = RunConfig(**job["config"])
    with pytest.raises(AssertionError):  # interrupted: nothing is written
        launch(tmp_path, [job | {"stop_after": 2}])
    state = checkpoint.load(path)
    assert (state["workers"], len(state["seconds"])) == (2, 1)
    with pytest.raises(OtherWorkers, match="was written by 2 workers") as caught:
        train(config, checkpoints=path)
    one_line(caught)

    def stop(run):
        if run.epoch == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config, checkpoints=alone, checkpoint_seconds=0, on_epoch=stop)
    whole, resumed, other, of_one = launch(
        tmp_path,
        [
            {"config": job["config"]},
            job,
            job | {"perturbation": "synchronised"},
            job | {"checkpoints": str(alone)},
        ],
    )
    assert resumed["curves"] == whole["curves"]
    assert "perturbation worker: resume with the same number of workers and" in other["error"]
    assert "was written by 1 worker, perturbation worker" in of_one["error"]
    (three,) = launch(tmp_path, [job], count=3)
    assert "was written by 2 workers" in three["error"]


def test_a_batch_of_fewer_images_than_workers_is_refused():
    """Even where every batch is full: a worker without images would have a loss of NaN."""
    config = RunConfig(**VIT | {"train_size": 64, "batch_size": 4})
    with pytest.raises(ConfigError, match="batch_size is 4, fewer images than 8 workers") as caught:
        distributed.train_distributed(config, process_group.Workers(7, 8, "cpu"))
    one_line(caught)


@pytest.mark.parametrize("kind", distributed.PERTURBATIONS)
def test_the_ascent_pass_sends_nothing_but_where_it_is_synchronised(monkeypatch, kind):
    sent = []
    monkeypatch.setattr(process_group.dist, "all_reduce", lambda tensor: sent.append(tensor))
    monkeypatch.setattr(process_group.dist, "broadcast_object_list", lambda objects, src: None)
    config = RunConfig(**VIT, **SAM)
    record = distributed.train_distributed(
        config, process_group.Workers(0, 1, "cpu"), perturbation=kind
    )
    everything, masked = record["mask"]["total"], record["mask"]["count"]
    step = [everything] if kind == "worker" else [masked, everything]
    gradients = [t.numel() for t in sent if t.dtype == torch.float32]
    assert gradients == step * 3 * config.epochs
    assert record["curves"] == train(config)["curves"], "one worker is one process"


ONE_CELL = """
import sys
from samlib.study import cells, plan
from samlib.__main__ import main

if __name__ == "__main__":
    plan.NEEDS = {"introduction": lambda p: cells.Needs(plan.introduction(p).cells[:1])}
    sys.exit(main())
"""


@pytest.mark.slow
def test_a_campaign_whose_worker_was_killed_continues_and_tells_what_runs(tmp_path):
    (tmp_path / "one_cell.py").write_text(ONE_CELL)
    program = tmp_path / "one_cell.py", "run", "--profile", "smoke", "--results", tmp_path
    place, deadline = ResultsFolder(tmp_path / "smoke"), time.monotonic() + 100
    damaged = store.write(place.runs, {"run_id": "damaged"})
    damaged.write_text("cut sh")
    with subprocess.Popen(**torchrun(*program), stderr=subprocess.DEVNULL) as begun:
        while not (notes := journal.running(place)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(notes[0]["pid"], signal.SIGKILL)
        assert begun.wait(100) == 1
    assert notes[0]["device"] == "cpu x 2"
    assert place.holder is None
    done = subprocess.run(**torchrun(*program), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert " runs done, 0 failed" in done.stdout
    assert [path.name for path in (tmp_path / "smoke" / "set_aside").iterdir()] == ["damaged.json"]
    found = store.read(place.runs)
    assert len(found) == 2
    for run_id, record in found.items():
        assert record["parallel"] == {"workers": 2, "perturbation": "worker"}
        assert "completed: test accuracy" in place.log(run_id).read_text()
    assert journal.running(place) == []


@pytest.mark.slow
def test_folders_are_shared(tmp_path):
    write_images(tmp_path / "imagenet" / "train", 12)
    write_images(tmp_path / "imagenet" / "val", 5, seed=1)
    config = {
        "dataset": "imagenet",
        "model": "resnet8",
        "validation_size": 6,
        "augment": "inception",
        "epochs": 2,
        "batch_size": 8,
        "lr": 0.05,
    }
    (record,) = launch(tmp_path, [{"config": config}], data_dir=tmp_path)
    assert record["curves"]["train_accuracy"][-1] > 40
    assert record["measures"]["recalibrated_test_accuracy"] is None


def test_one_process_is_not_parallel(monkeypatch):
    for value, expected in ((None, False), ("1", False), ("2", True)):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if value:
            monkeypatch.setenv("WORLD_SIZE", value)
        assert process_group.launched() is expected
