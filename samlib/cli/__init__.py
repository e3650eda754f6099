"""The verbs of the command line: their flags, and what each does."""

__all__ = ["flags", "run", "status", "streams", "train", "verbs", "watch"]
