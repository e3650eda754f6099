"""What each worker of a `launch` does: trains configurations; the first one writes the results."""

import json
import os
import socket
import traceback
from multiprocessing import connection, get_context
from pathlib import Path

from samlib.data import image_folders
from samlib.errors import SamlibError
from samlib.trainer import distributed, process_group
from samlib.trainer.config import RunConfig

# Workers are forked off a process that has imported what a run needs: a start takes no time. What
# torchrun itself does is tested where a whole campaign is started by it.
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(["samlib.trainer.distributed", "timm", "torch._dynamo"])


def launch(tmp_path, jobs, count=2, data_dir="."):
    """Run jobs on some workers; the first one's results. A worker's failure ends the others."""
    output = tmp_path / "out.json"
    output.unlink(missing_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    workers = [
        _FORKS.Process(target=_work, args=(rank, count, port, output, jobs, data_dir))
        for rank in range(count)
    ]
    for worker in workers:
        worker.start()
    left = {worker.sentinel: worker for worker in workers}
    while left:
        ended = connection.wait(left, timeout=240)
        if not ended or any(_code(left.pop(sentinel)) for sentinel in ended):
            for worker in left.values():
                worker.kill()
            break
    for worker in workers:
        worker.join()
        worker.close()
    assert output.exists(), "".join(path.read_text() for path in tmp_path.glob("failed-*.txt"))
    return json.loads(output.read_text())


def _code(worker):
    worker.join()
    return worker.exitcode


def _work(rank, count, port, output, jobs, data_dir):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    image_folders.loaders = lambda: 0
    try:
        with process_group.join("cpu") as among:
            found = [_one(job, among, Path(data_dir)) for job in jobs]
        if rank == 0:
            output.write_text(json.dumps(found))
    except BaseException:
        output.with_name(f"failed-{rank}.txt").write_text(traceback.format_exc())
        os._exit(1)


def _one(job, among, data_dir):
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
