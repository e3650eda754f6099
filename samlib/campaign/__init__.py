"""Training of missing runs: in which order, on which machines, for how long."""

__all__ = [
    "backlog",
    "capacity",
    "jobs",
    "local",
    "progress",
    "ray_cluster",
    "runner",
    "torchrun",
]
