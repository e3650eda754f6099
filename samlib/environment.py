"""Environment variables of this process and of what it starts, for the length of a block."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """Set variables inside the block, remove those that are None, and put the old values back.

    >>> with environment(SAMLIB_DATA="/data"):
    ...     os.environ["SAMLIB_DATA"]
    '/data'
    """
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
