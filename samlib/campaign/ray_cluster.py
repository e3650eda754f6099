"""A Ray cluster: found, joined, or simulated on one machine.

No other module imports Ray.
"""

import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samlib.campaign.local import cores
from samlib.environment import environment
from samlib.errors import SamlibError, first_line
from samlib.extras import needed

_LOOK = 5.0  # seconds to wait for an address to answer


class ClusterError(SamlibError):
    """The cluster cannot be reached, or is gone."""


def import_ray():
    """Ray, without its usage statistics.

    Raises:
        ExtraMissing: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What Ray will do by default one day: leave CUDA_VISIBLE_DEVICES alone where no GPU is asked.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with needed("--executor ray"):
        import ray
    return ray


def connect(workers: int | None) -> None:
    """Join the cluster that RAY_ADDRESS or `ray start` on this machine names, or start one here.

    Args:
        workers: CPUs of a cluster that is started here; None is one per core.

    Raises:
        ExtraMissing: Ray is not installed.
        ClusterError: the named cluster cannot be reached.
    """
    ray = import_ray()
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = _address()
    if address == "local":
        quiet |= {"num_cpus": workers or cores(), "include_dashboard": False}
    try:
        _check(address)
        with _sigterm_kept():
            ray.init(address=address, **quiet)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"cannot join the Ray cluster at {address}: {first_line(error)}; start it, have it "
            "forgotten (unset RAY_ADDRESS, `ray stop`), or use --executor local"
        ) from error


def _address() -> str:
    """The address of the cluster to join, found where Ray looks for it; "local" if there is none.

    Ray's own search would also find what another process has started for itself.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        return address
    started = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    try:
        return started.read_text().strip() or "local"
    except OSError:
        return "local"


def _check(address: str) -> None:
    """Raise an error of the connection at once; Ray itself would try for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LOOK).close()


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep the command line's SIGTERM handler, which Ray replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def simulated(nodes: int) -> Iterator:
    """A cluster of `nodes` nodes with one CPU each on this machine, beside an idle head.

    Its processes are those of a real cluster; `RAY_ADDRESS` names the cluster inside the block.
    """
    import_ray()
    from ray.cluster_utils import Cluster

    # A folder of its own, lest a cluster that runs on this machine be taken for it; not the
    # system's, whose path may be too long for a socket's.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, environment(RAY_TMPDIR=folder):
        with environment(RAY_ADDRESS=None), _sigterm_kept():
            head = {"num_cpus": 0, "include_dashboard": False}
            cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            with _sigterm_kept():
                for _ in range(nodes):
                    cluster.add_node(wait=False, num_cpus=1)
                cluster.wait_for_nodes()
            with environment(RAY_ADDRESS=cluster.address):
                yield cluster
        finally:
            cluster.shutdown()
