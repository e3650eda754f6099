"""What a user is told: one line that names what is wrong and what to do."""

import numbers
import shlex
from collections.abc import Iterable
from typing import Any


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


def first_line(said: BaseException | str) -> str:
    """The first line of what an error or a program says; empty if it says nothing.

    >>> first_line(ValueError("\\nout of range\\nat the second step"))
    'out of range'
    """
    return (str(said).strip().splitlines() or [""])[0]


def choose(kind: str, name: str, valid: Iterable[str]) -> str:
    """Return `name` if it is one of `valid`; otherwise raise a ConfigError that lists them.

    >>> choose("model", "resnet56", ["resnet56", "vit_t"])
    'resnet56'
    """
    valid = list(valid)
    if name not in valid:
        raise ConfigError(f"unknown {kind} {name!r}; valid: {', '.join(map(str, valid))}")
    return name


def within(name: str, value: Any, interval: str, whole: bool = False) -> Any:
    """Return `value` if it is a number in an interval; otherwise raise a ConfigError that says so.

    >>> within("p", 0.5, "[0, 1]"), within("k", 2, "[1, inf)", whole=True)
    (0.5, 2)
    """
    low, high = map(float, interval[1:-1].split(","))
    kind = numbers.Integral if whole else numbers.Real
    number = isinstance(value, kind) and not isinstance(value, bool)
    ends = [end for end, bracket in ((low, interval[0]), (high, interval[-1])) if bracket in "()"]
    if not number or not low <= value <= high or value in ends:
        what = "a whole number" if whole else "a number"
        raise ConfigError(f"{name} must be {what} in {interval}, not {value!r}")
    return value
