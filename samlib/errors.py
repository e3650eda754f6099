"""What a user is told: one line that names what is wrong and what to do."""

import shlex
from collections.abc import Iterable


class SamlibError(Exception):
    """Base of every error this library raises on purpose.

    The command line prints its message as one line and exits with 2; no traceback is shown.
    """


class ConfigError(SamlibError, ValueError):
    """A value that cannot be used: the message names it and lists or describes the valid ones."""


class DataMissing(SamlibError):
    """A data set is not on disk: the message says what to run or which file to put where."""


class RecordsMissing(SamlibError):
    """A table was asked for whose runs are not there: the message names the command to run."""


def command(*words: object) -> str:
    """A command of the command line as it can be pasted into a shell.

    >>> command("run", "--results", "/two words")
    "python -m samlib run --results '/two words'"
    """
    return shlex.join(["python", "-m", "samlib", *map(str, words)])


def choose(kind: str, name: str, valid: Iterable[str]) -> str:
    """Return `name` if it is one of `valid`; otherwise raise a ConfigError that lists them.

    >>> choose("model", "resnet56", ["resnet56", "vit_t"])
    'resnet56'
    """
    valid = list(valid)
    if name not in valid:
        raise ConfigError(f"unknown {kind} {name!r}; valid: {', '.join(map(str, valid))}")
    return name
