"""One run: a RunConfig in, its result out."""

__all__ = [
    "build",
    "checkpoint",
    "config",
    "cuda_graphs",
    "diagnostics",
    "distributed",
    "loop",
    "one_run",
    "process_group",
]
