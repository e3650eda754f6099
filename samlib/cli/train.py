"""`python -m samlib train`: one run, its record on stdout and, if asked for, in a folder."""

import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

from samlib.errors import ConfigError
from samlib.files import DiskError, as_disk_error
from samlib.records import store
from samlib.records.results_folder import ResultsFolder
from samlib.trainer import checkpoint, distributed, one_run, process_group
from samlib.trainer.config import RunConfig
from samlib.trainer.loop import Trainer


def check_alone(perturbation: str) -> None:
    """Check that a perturbation of several workers is not asked of one process.

    Raises:
        ConfigError: it is.
    """
    if perturbation == "synchronised" and not process_group.launched():
        raise ConfigError(
            "--perturbation synchronised is for several workers under torchrun; in one process "
            "the perturbation is that of the whole batch: leave it out"
        )


def check_shared(device: str) -> None:
    """Check that the workers that torchrun has started on this machine can have the device.

    Raises:
        ConfigError: no such device, a GPU by its number, or fewer GPUs than workers.
    """
    where = one_run.usable_device(device)
    if where.type == "cpu":
        return
    if where.index is not None:
        raise ConfigError(
            f"under torchrun each worker takes a GPU of its own: --device cuda, not {device}"
        )
    workers, there = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if workers > there:
        raise ConfigError(
            f"torchrun has started {workers} workers here, and {there} GPUs are available: use "
            f"--nproc-per-node {there} or --device cpu"
        )


def main(
    config: RunConfig,
    folder: ResultsFolder | None,
    *,
    device: str,
    data_dir: Path | None = None,
    perturbation: str = "worker",
) -> int:
    """Train a run, under torchrun on all workers, and print its record; the exit status.

    Args:
        config: the run.
        folder: where record and weights of the run are kept, too, under the folder's lock. The run
            resumes from its checkpoint there; one that has a record there is not trained again.
        device, data_dir: as in `one_run.train`.
        perturbation: under torchrun, as in `distributed.train_distributed`.

    Raises:
        FolderInUse: another process has locked the folder.
        DiskError: the folder cannot be written; a run that has ended is printed all the same.
        ConfigError, DataMissing: as `one_run.train`.
    """
    ended: list[Trainer] = []  # the run after its last epoch

    def on_epoch(run: Trainer) -> None:
        ended[:] = [run]
        _report(run)

    options = {"data_dir": data_dir, "on_epoch": on_epoch}
    options["checkpoints"] = folder and folder.checkpoint(config.run_id)
    try:
        with ExitStack() as stack:
            among = None
            if process_group.launched():
                check_shared(device)
                among = stack.enter_context(process_group.join(device))
            first, kept = among is None or among.rank == 0, None
            if folder and first:
                stack.enter_context(folder.locked())
                _check(folder)
                kept = _trained(folder, config.run_id)
            if among is not None:
                kept = among.from_first(kept)
            if kept:
                if first:
                    print(json.dumps(kept))
                return 0
            if among is None:
                record = one_run.train(config, device=device, **options)
            else:
                options["perturbation"] = perturbation
                record = distributed.train_distributed(config, among, **options)
            if first:
                try:
                    _keep(folder, record, ended)
                finally:  # a disk that is full costs no record
                    print(json.dumps(record))
    except KeyboardInterrupt:
        found = folder and list(folder.path.glob(f"checkpoints/{config.run_id}.p*"))
        then = "continues from its last checkpoint" if found else "begins anew"
        print(f"\nsamlib: interrupted; the same command {then}", file=sys.stderr)
        return 130
    return 0


def _check(folder: ResultsFolder) -> None:
    """Check before the run that the folder can be written."""
    for path in (folder.runs, folder.weights("").parent, folder.checkpoint("").parent):
        with as_disk_error(path):
            path.mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()


def _trained(folder: ResultsFolder, run_id: str) -> dict | None:
    """The record of a run that is there already; a damaged one does not count."""
    path = folder.runs / f"{run_id}.json"
    try:
        record = store.read_one(path)
    except FileNotFoundError:
        return None
    except (store.FormatError, store.UnreadableError):
        raise
    except store.RecordError as error:
        print(f"{error}; the run is done again", file=sys.stderr)
        return None
    print(f"already trained: {path}; move it away to train the run again", file=sys.stderr)
    return {key: value for key, value in record.items() if key not in ("format", "checksum")}


def _report(run: Trainer) -> None:
    loss, accuracy = run.curves["train_loss"][-1], run.curves["test_accuracy"][-1]
    shown = "diverged" if loss is None else f"loss {loss:.4f}"
    tested = "" if accuracy is None else f", test accuracy {accuracy:.2f} %"
    print(f"epoch {run.epoch}/{run.config.epochs}: {shown}{tested}", file=sys.stderr)


def _keep(folder: ResultsFolder | None, record: dict, ended: list[Trainer]) -> None:
    if folder is None:
        return
    run_id = record["run_id"]
    try:
        for run in ended:
            checkpoint.save_final(folder.weights(run_id), run.model.state_dict())
        store.write(folder.runs, record)
        checkpoint.discard(folder.checkpoint(run_id))
    except DiskError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise DiskError(
            f"the run has ended and its record is on stdout, but cannot be kept in "
            f"{folder.path}: {reason}"
        ) from error
