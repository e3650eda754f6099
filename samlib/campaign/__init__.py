"""Who trains the runs that are missing, where, and for how long."""

__all__ = ["backlog", "jobs", "local", "progress", "ray_cluster", "runner", "torchrun"]
