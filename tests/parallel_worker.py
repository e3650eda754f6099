"""What each worker of test_parallel runs: trains configurations and writes the first one's results.

Usage: torchrun ... parallel_worker.py OUTPUT.json DATA_DIR JOBS.json
"""

import json
import sys
from pathlib import Path

from samlib.data import image_folders
from samlib.errors import SamlibError
from samlib.trainer import distributed, process_group
from samlib.trainer.config import RunConfig


def one(job, among, data_dir):
    config = RunConfig(**job["config"])

    def stop(run):
        if run.epoch == job.get("stop_after"):
            raise InterruptedError

    kept = {"checkpoints": Path(job["checkpoints"])} if "checkpoints" in job else {}
    try:
        return distributed.train_distributed(
            config,
            among,
            perturbation=job.get("perturbation", "worker"),
            data_dir=data_dir,
            checkpoint_seconds=0,
            on_epoch=stop,
            **kept,
        )
    except SamlibError as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main(output, data_dir, jobs):
    image_folders.loaders = lambda: 0
    with process_group.join("cpu") as among:
        found = [one(job, among, Path(data_dir)) for job in json.loads(Path(jobs).read_text())]
        if among.rank == 0:
            Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
