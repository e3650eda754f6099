"""Which members of the family a profile runs."""

import pytest

from samlib.sam.family import MEMBERS
from samlib.study import members, plan, profiles
from samlib.study.methods import ALL, BASE, ON


def test_every_member_is_of_the_family_or_a_control():
    assert next(iter(MEMBERS)) == "sam"
    assert {"sam", *members.FAMILY, *members.CONTROLS} == {*MEMBERS}
    assert not {*members.FAMILY} & {*members.CONTROLS}
    assert members.ONE_PASS == ("msam", "msam_up", "last", "lesam", "drift_on")


@pytest.mark.parametrize("starts", [members.QUICK, members.CIFAR])
def test_a_row_begins_where_its_line_says(starts):
    assert {*starts} <= {*members.FAMILY, *members.CONTROLS}
    rows = members.rows(starts, "wrn", seeds=8)
    assert len(rows) == sum(start is not None for pair in starts.values() for start in pair)
    for row in rows:
        mask = ("all", "only_norm").index(row.method.mask)
        assert row.start[0] == starts[members.member(row.method)][mask]
        assert (row.problem, row.seeds) == ("wrn", 8)


def test_a_member_without_a_row_of_its_own_is_not_run():
    short = profiles.get("cifar100-short")
    assert members.methods(short) == []
    assert short.has("wrn", ON.but(member="msam")), "though SAM-ON's ladder would serve"
    assert plan.family(short).cells == []
    assert "family" not in plan.chapters(short)
    assert [cell.method for cell in plan.why(short).cells] == [BASE, ALL, ON]
    assert plan.why(short).beside == []


def test_quick_runs_both_masks_of_a_member_beside_the_headline():
    quick = profiles.get("quick")
    cells = plan.family(quick).cells
    assert [cell.method for cell in cells[:3]] == [BASE, ALL, ON]
    msam = [c for c in cells if members.member(c.method) == "msam"]
    assert [c.method.mask for c in msam] == ["all", "only_norm"]
    assert {run.member for cell in msam for run in cell.runs({})} == {"msam"}
    assert msam[1].start == (0.5, 1.0, 2.0, 4.0)


def test_the_one_pass_members_come_last_on_cifar():
    profile = profiles.get("cifar100-10k")
    one_pass = ["msam", "msam_up", "last", "lesam", "drift_on"]
    for group, mask in zip(profile.order[-2:], ("only_norm", "all"), strict=True):
        last = [profile.cell(f, m) for f, m in group]
        assert [members.member(c.method) for c in last] == one_pass
        assert {c.method.mask for c in last} == {mask}
        assert {len(c.seeds) for c in last} == {8}
    earlier = [m for group in profile.order[:-2] for _, m in group]
    assert {members.member(m) for m in earlier} == {"sam"}


def test_dyt_takes_layer_norms_place_and_nothing_else():
    layer_norm, dyt = plan.dyt(profiles.get("quick"))[:3], plan.dyt(profiles.get("quick"))[3:]
    for one, other in zip(layer_norm, dyt, strict=True):
        before, after = (c.at(0.1, [0])[0].to_dict() for c in (one, other))
        changed = {k for k in before if before[k] != after[k]}
        assert changed == {"model"}
        assert after["model"] == before["model"] + "_dyt"
