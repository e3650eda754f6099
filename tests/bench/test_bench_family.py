"""Steps of the family's members are timed in turn, cycles of those that are not all alike."""

import pytest
from conftest import one_line

from samlib.__main__ import main
from samlib.bench import family, timing
from samlib.errors import ConfigError
from samlib.records import store
from samlib.sam.family import MEMBERS
from samlib.study import members, profiles


def test_every_member_that_a_profile_runs_is_timed_and_recorded(tmp_path, capsys):
    arguments = ["--profile", "smoke", "--rounds", "1", "--results", str(tmp_path)]
    assert main(["bench", "family", *arguments]) == 0
    said = capsys.readouterr().out
    (record,) = timing.read(tmp_path, "family")
    assert store.read_one(tmp_path / "bench" / "family-smoke-cpu.json") == record
    assert list(record["ratios"]) == ["base", "base again", "sam", "msam", "usam"]
    assert record["ratios"]["base"] == [1.0] * 3
    assert all(low > 0 for low, _, _ in record["seconds"].values())
    assert all(name in said for name in ("msam", "usam"))


def test_a_time_is_that_of_one_step_of_a_cycle(monkeypatch):
    calls = []
    monkeypatch.setattr(family, "_steps", lambda config, device, cycle: calls.append(cycle))
    took = {"base": [1.0], "base again": [1.0], "sam": [1.5], "msam": [1.1], "usam": [8.0]}
    monkeypatch.setattr(family, "interleaved", lambda *arguments: took)
    monkeypatch.setitem(family.CYCLES, "usam", 5)
    record = family.measure(family.Setting(profile="smoke"))
    assert calls == [1, 1, 1, 1, 5]
    assert record["ratios"]["usam"] == [1.6] * 3
    assert record["ratios"]["msam"] == [1.1] * 3


def test_members_whose_steps_differ_have_a_cycle():
    cycles = {name: family.cycle_of(name) for name in MEMBERS}
    uneven = {"every_k", "looksam", "looksam_mask", "ss_sam", "ae_sam", "ire", "eigen_sam"}
    assert uneven <= {name for name, cycle in cycles.items() if cycle > 1}
    assert (cycles["sam"], cycles["msam"], cycles["every_k"], cycles["eigen_sam"]) == (1, 1, 5, 100)


def test_a_profile_without_members_is_refused():
    assert not members.methods(profiles.get("paper"))
    with pytest.raises(ConfigError, match="runs no member") as caught:
        family.Setting(profile="paper")
    one_line(caught)
