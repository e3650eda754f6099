"""Environment variables for the length of a block."""

import os

import pytest

from samlib.environment import environment


def test_old_values_come_back_even_after_an_error(monkeypatch):
    monkeypatch.setenv("SAMLIB_OLD", "old")
    monkeypatch.delenv("SAMLIB_NEW", raising=False)
    seen = []

    def interrupted():
        with environment(SAMLIB_OLD=None, SAMLIB_NEW="new"):
            seen.extend(os.environ.get(name) for name in ("SAMLIB_OLD", "SAMLIB_NEW"))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        interrupted()
    assert seen == [None, "new"]
    assert os.environ["SAMLIB_OLD"] == "old"
    assert "SAMLIB_NEW" not in os.environ
