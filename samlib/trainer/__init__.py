"""One run: a RunConfig in, its result out."""

__all__ = [
    "build",
    "checkpoint",
    "config",
    "diagnostics",
    "distributed",
    "loop",
    "one_run",
    "process_group",
]
