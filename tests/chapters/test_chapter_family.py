"""The chapters on the family, on made-up records whose numbers are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from made_up import PROFILE, RATIOS, made_up, rewritten, steps_timed, with_accuracies

from samlib.bench import timing
from samlib.chapters import family, one_pass, one_pass_prices, systems, why
from samlib.records import store
from samlib.report import step_times
from samlib.report.answers import PARTLY
from samlib.report.results import RECALIBRATED, load
from samlib.report.stats import NOT_RUN, OPEN, REVERSED, SEEN, compare
from samlib.study import members, plan
from samlib.study.methods import ALL, BASE, ON
from samlib.study.profile import MARGIN

NAMES = list(members.SMOKE)
SAM, USAM, MSAM = "sam", "usam", "msam"


def accuracies(**by_member):
    """A rule: 80 for the base optimizer, (all, only norm) of a member as given, else 85 and 90."""

    def rule(config):
        if config["geometry"] == "none":
            return 80.0
        everything, on = by_member.get(config["member"], (85.0, 90.0))
        return on if config["mask"] == "only_norm" else everything

    return rule


def test_only_rows_of_its_own_make_a_member_run(smoke):
    assert family.ran(smoke) == ["msam", "usam"]
    assert family.both_masks(smoke) == ["sam", "msam", "usam"]
    everything, on = family.of_member(smoke, MSAM)
    assert (everything.method.mask, on.method.mask) == ("all", "only_norm")
    assert {run.member for run in on.runs(smoke.records)} == {"msam"}
    assert family.of_member(smoke, "vasso") == (None, None)


def test_the_gap_is_only_norm_minus_all_and_the_share_is_of_sam_ons_gain(smoke):
    found = with_accuracies(smoke, accuracies(msam=(84.0, 85.0)))
    assert family.gap(found, MSAM).mean == pytest.approx(1.0)
    assert family.retention(found, family.of_member(found, MSAM)[1]).share == pytest.approx(0.5)
    row = family.table(found).set_index(("member", "")).loc["MSAM"]
    assert row["only norm − all", "mean"] == pytest.approx(1.0)
    assert row["share of SAM-ON's gain", "share"] == pytest.approx(50)
    assert row["passes", ""] == "1"
    assert row["state, bytes", ""] == 0
    on, everything = (family.of_member(found, MSAM)[i] for i in (1, 0))
    assert row["ρ ratio", ""] == pytest.approx(found.rho(on) / found.rho(everything))
    assert math.isnan(row["step time", ""]), "epochs of the records are no price"


def test_a_step_time_of_the_family_is_that_of_the_bench(smoke, tmp_path):
    record = {
        "run_id": f"family-{PROFILE.name}-cpu",
        "network": timing.network(smoke.cell(BASE).base),
        "ratios": {"sam": [1.7, 1.75, 1.8], "msam": [1.0, 1.02, 1.03]},
    }
    store.write(tmp_path / "bench", record)
    found = replace(smoke, folder=tmp_path / PROFILE.name)
    rows = family.table(found).set_index(("member", ""))
    assert rows.loc["MSAM", ("step time", "")] == 1.02
    assert rows.loc["SAM", ("step time", "")] == 1.75
    assert math.isnan(rows.loc["USAM", ("step time", "")])
    store.write(tmp_path / "bench", record | {"network": {"model": "another"}})
    assert step_times.of_family(found) == {}
    steps_timed(tmp_path, RATIOS | {"msam on only_norm": 1.01})
    rows = family.table(found).set_index(("member", ""))
    assert rows.loc["MSAM", ("step time", "")] == 1.01, "by the bench of steps"


@pytest.mark.parametrize(
    ("msam", "usam", "seen"),
    [
        ((85.0, 86.0), (85.0, 85.0), SEEN),  # as good is enough
        ((85.0, 84.9), (85.0, 86.0), SEEN),  # a loss within the margin is none
        ((85.0, 84.0), (85.0, 86.0), REVERSED),
    ],
)
def test_one_member_that_loses_more_than_the_margin_reverses_f0(smoke, msam, usam, seen):
    found = with_accuracies(smoke, accuracies(msam=msam, usam=usam))
    assert family.no_member_loses(found).seen == seen
    assert f"no member more than {found.margin:g} points: {seen}" in family.finding(found)


def test_f0_is_open_where_the_seeds_do_not_decide(smoke):
    def rule(config):
        uneven = 3.0 * config["seed"] if config["member"] == MSAM else 0.0
        return accuracies()(config) - uneven * (config["mask"] == "only_norm") - 4

    assert family.no_member_loses(with_accuracies(smoke, rule)).seen == OPEN


def test_the_sign_is_compared_with_that_of_sam(smoke):
    found = with_accuracies(smoke, accuracies(msam=(85.0, 86.0), usam=(85.0, 84.0)))
    assert "sign of SAM's in 1 of 2 members and the opposite in 1" in family.same_sign(found)
    flat = with_accuracies(smoke, accuracies(sam=(85.0, 85.0)))
    assert family.same_sign(flat) == "the difference for SAM itself is no difference"
    assert "MSAM; 1 of 1 take one pass" in family.finding_one_pass(
        with_accuracies(smoke, accuracies(msam=(85.0, 80.0)))
    )


def choosing(results, ratios):
    """Results in which validation prefers rho 0.25 for all, times a ratio for only norm."""

    def best(config):
        return 0.25 * (ratios[config["member"]] if config["mask"] == "only_norm" else 1.0)

    found = {
        run_id: r
        if r["config"]["geometry"] == "none"
        else r
        | {"validation_accuracy": 90 - abs(math.log2(r["config"]["rho"] / best(r["config"])))}
        for run_id, r in results.records.items()
        if r["config"]["member"] in ratios
    }
    known = results.records | found
    cells = [results.cell(m) for m in plan.known(PROFILE, (ALL, ON, *members.methods(PROFILE)))]
    new = {run.run_id: made_up(run) for cell in cells for run in cell.at(cell.chosen(known))}
    return replace(results, records=new | known)


def test_f1_is_about_the_steps_of_a_ball(smoke):
    ratios = {"sam": 4.0, "msam": 8.0, "usam": 1.0}
    assert family.rho_ratio(choosing(smoke, ratios), "sam") == pytest.approx(4.0)
    within = family.one_ratio(choosing(smoke, ratios))
    assert (within.seen, within.seeds) == (SEEN, 1), "USAM's radius is not a length"
    assert "1 of 1 within a factor of 2 of 4" in within.ours


def test_where_no_member_runs_under_both_masks_the_page_says_so(smoke):
    left = [r for r in PROFILE.grids if members.member(r.method) == SAM or r.method.mask != "all"]
    one_mask = replace(smoke, profile=replace(PROFILE, grids=tuple(left)))
    assert family.both_masks(one_mask) == [SAM]
    assert family.finding_one_pass(one_mask) == "No member runs under both masks in this profile."
    opening = family.opening(one_mask)
    assert opening["sees"] == "2 members are run; none under both masks."
    assert opening["seen"] == NOT_RUN


def test_a_mask_whose_runs_are_not_all_there_is_not_run(smoke):
    kept = {
        run_id: r
        for run_id, r in smoke.records.items()
        if (r["config"]["member"], r["config"]["mask"], r["config"]["seed"]) != (MSAM, "all", 0)
    }
    found = replace(smoke, records=kept)
    everything, on = family.of_member(found, MSAM)
    assert everything is None
    assert on is not None
    assert family.both_masks(found) == [SAM, USAM]
    assert "MSAM, all" not in one_pass.cells(found)
    assert "MSAM" in family.table(found)["member"].tolist()
    assert found.has(*plan.one_pass(PROFILE).cells), "the page stands without mask all"


@pytest.mark.parametrize(("name", "runs"), [("smoke", 4), ("quick", 17), ("cifar100-10k", 20)])
def test_what_a_member_would_take_follows_from_the_profile(name, runs, tmp_path):
    found = load(name, tmp_path)
    assert family.runs_of(found, "vasso") == runs
    assert f"about {runs} runs" in why.command(found)
    if not members.methods(found.profile, ["vasso"]):
        said = f"adds a member, for about {2 * runs} runs, {runs} under each mask."
        assert family.not_run(found).endswith(said)


# --- one pass ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("msam", "price", "seen"),
    [
        (88.0, 1.0, SEEN),
        (88.0, 1.2, PARTLY),
        (82.0, 1.0, REVERSED),
        (82.0, 1.2, REVERSED),
        (88.0, math.nan, OPEN),
    ],
)
def test_the_goal_needs_the_gain_and_the_price(smoke, monkeypatch, msam, price, seen):
    """SAM-ON gains 10, of which 70 % are 7."""
    monkeypatch.setattr(step_times, "price", lambda results, cell: price)
    found = with_accuracies(smoke, accuracies(msam=(84.0, msam)))
    assert one_pass.goal(found).seen == seen
    assert f"SAM-ON's gain: {seen}." in one_pass.finding(found)


@pytest.mark.parametrize(
    ("prices", "seen"), [((1.0, 1.2), OPEN), ((1.2, 1.2), PARTLY), ((1.2, 1.0), SEEN)]
)
def test_the_goal_is_open_while_a_member_of_the_right_price_is(smoke, monkeypatch, prices, seen):
    """Of one the gain is open, of the other it is seen."""
    cells = one_pass._only_norm(smoke)
    two = dict(zip(("one", "other"), [*cells.values()] * 2, strict=False))
    monkeypatch.setattr(one_pass, "_only_norm", lambda results: two)
    monkeypatch.setattr(one_pass, "MEMBER_NAMES", {"one": "one", "other": "other"})
    gains = iter([compare([1.0, -1.0, 0.5, -0.4], MARGIN), compare([1.0, 1.1, 0.9, 1.05], MARGIN)])
    monkeypatch.setattr(one_pass, "enough", lambda results, cell: next(gains))
    at = iter([*prices] * 2)
    monkeypatch.setattr(step_times, "price", lambda results, cell: next(at))
    monkeypatch.setattr(one_pass, "_at", lambda results, cell: "its price")
    assert one_pass.goal(smoke).seen == seen


def test_the_page_of_one_pass_says_what_is_not_run(smoke):
    assert list(one_pass.cells(smoke)) == ["SGD", "SAM", "SAM-ON", "MSAM, all", "MSAM, only norm"]
    assert "not run" in one_pass.finding_signs(smoke)
    assert one_pass.recalibrated(smoke)["change", "mean"].tolist() == pytest.approx([-0.5] * 5)
    assert len(one_pass.table(smoke)) == 5


def recalibrated(results, rule):
    """Results whose recalibrated accuracies follow a rule of the configuration."""
    return rewritten(
        results,
        lambda r: (
            r | {"measures": r["measures"] | {"recalibrated_test_accuracy": rule(r["config"])}}
        ),
    )


def test_the_gain_with_recalibrated_statistics_is_beside_the_goal(smoke):
    """With the usual ones MSAM gets half of SAM-ON's gain of 10, recalibrated 120 %."""
    spread = accuracies(msam=(84.0, 92.0))
    found = with_accuracies(smoke, accuracies(msam=(84.0, 85.0)))
    found = recalibrated(found, lambda c: spread(c) + 0.1 * (c["seed"] % 7))
    assert one_pass.goal(found).seen != SEEN, "decided by the usual statistics"
    said = one_pass.finding_statistics(found)
    assert "is MSAM: 120 % [120, 120] of SAM-ON's gain, +5.00 [+5.00, +5.00] points more" in said
    assert "(seen after Holm's correction)" in said
    said = (
        "ooked at after the runs, MSAM gets 120 % [120, 120] of SAM-ON's gain (more than 70 %: "
        "seen)."
    )
    assert one_pass.opening(found)["sees"].endswith(said)
    assert one_pass.in_short_recalibrated(found) == f"L{said}"


def test_msam_is_told_of_where_another_member_is_best(smoke, monkeypatch):
    monkeypatch.setattr(members, "ONE_PASS", (MSAM, USAM))
    found = with_accuracies(smoke, accuracies(msam=(84.0, 85.0), usam=(84.0, 87.0)))
    assert "USAM with only norm gets 70 % [70, 70]" in one_pass.in_short(found)
    assert one_pass.in_short(found).endswith(" MSAM gets 50 % [50, 50] of SAM-ON's gain.")
    found = recalibrated(found, lambda c: accuracies(msam=(84.0, 85.0), usam=(84.0, 87.0))(c))
    said = one_pass.in_short_recalibrated(found)
    assert said.startswith("Looked at after the runs, USAM gets 70 % ")
    assert said.endswith(" MSAM gets 50 % [50, 50] of SAM-ON's gain.")


def test_where_no_network_has_statistics_nothing_is_recalibrated(smoke):
    found = recalibrated(smoke, lambda config: None)
    assert one_pass.in_short_recalibrated(found) == "The network has no BatchNorm"
    assert "ecalibrated" not in one_pass.opening(found)["sees"]
    assert one_pass.finding_statistics(found) == "No statistics to recalibrate."
    assert one_pass.recalibrated(found)["recalibrated", "mean"].isna().all()
    assert len(one_pass.table(found)) == 5


@pytest.mark.parametrize(("price", "missed"), [(1.04, False), (1.06, True)])
def test_what_is_open_where_every_step_takes_too_long_is_told(smoke, monkeypatch, price, missed):
    near = compare([1.0, -1.0, 0.5, -0.4], MARGIN)
    monkeypatch.setattr(one_pass, "enough", lambda results, cell: near)
    monkeypatch.setattr(step_times, "price", lambda results, cell: price)
    said = one_pass.finding(smoke)
    assert "of SAM-ON's gain: open." in said
    assert (f"MSAM's minus 70 % of SAM-ON's is {near} points" in said) is missed


def test_a_price_is_timed_in_turn_with_the_base_optimizer_or_there_is_none(smoke, tmp_path):
    steps_timed(tmp_path, RATIOS | {"msam on only_norm": 1.02})
    found = replace(smoke, folder=tmp_path / PROFILE.name)
    at = {name: step_times.price(found, cell) for name, cell in one_pass.cells(found).items()}
    assert at["MSAM, only norm"] == 1.02
    assert math.isnan(at["MSAM, all"]), "epochs of the records are no price"
    shown = one_pass.figure(found).axes[0]
    assert [text.get_text() for text in shown.texts] == [
        "1.00 ×",
        "2.00 ×",
        "1.75 ×",
        "–",
        "1.02 ×",
        "step",
    ]
    assert [t.get_weight() for t in shown.texts[:-1]] == ["bold", *["normal"] * 3, "bold"]
    hollow = [line for line in shown.lines if line.get_markerfacecolor() == "white"]
    every = one_pass.cells(found).values()
    recalibrated = [found.accuracies(c, column=RECALIBRATED).mean() for c in every]
    assert [line.get_xdata()[0] for line in hollow] == pytest.approx(recalibrated)
    assert "at 1.02 ×" in one_pass.goal(found).ours
    assert "at 1.02 × the base optimizer's step" in one_pass.opening(found)["sees"]


@pytest.mark.parametrize(("slowest", "word"), [(1.02, "within"), (1.08, "above")])
def test_the_slowest_step_of_every_timed_network_is_held_against_the_goal(
    smoke, tmp_path, slowest, word
):
    one_pass_ratios = {"msam on only_norm": 1.0, "last on only_norm": slowest, "msam on all": 1.5}
    steps_timed(tmp_path, RATIOS | one_pass_ratios)
    found = replace(smoke, folder=tmp_path / PROFILE.name)
    said = one_pass_prices.finding(found)
    assert said.startswith(f"The slowest of these steps takes {slowest:.2f} × on WRN-10-1, 8 × 8")
    assert f"({word} the goal)" in said
    row = one_pass_prices.table(found).iloc[0]
    assert (row["MSAM", "ratio"], row["last gradient", "ratio"]) == (1.0, slowest)
    assert "FedLESAM's drift" not in row.index.get_level_values(0)
    nothing = replace(smoke, folder=tmp_path / "elsewhere" / PROFILE.name)
    assert one_pass_prices.finding(nothing) == "No step of one pass has been timed."
    assert one_pass_prices.table(nothing).empty


# --- systems -------------------------------------------------------------------------------------


def test_every_member_of_the_family_is_a_system_with_one_number_or_a_reason(smoke):
    named = [s.member for s in systems.SYSTEMS if s.member]
    assert len(named) == len(set(named))
    variants = {"msam_up", "drift_on", "looksam_mask", "every_k"}  # of MSAM, FedLESAM, LookSAM, SAM
    assert {*named} == {"sam", *members.FAMILY} - variants
    found = with_accuracies(smoke, accuracies(msam=(84.0, 85.0)))
    table = systems.table(found).set_index(("method", ""))
    assert table.loc["MSAM (Becker et al., 2024)", ("only norm − base", "mean")] == pytest.approx(5)
    empty = table["only norm − base", "mean"].isna()
    ran = [s.member for s in systems.SYSTEMS if s.member in ("sam", *family.ran(found))]
    assert {*ran} >= {"sam", "usam", "msam"}
    assert empty.sum() == len(systems.SYSTEMS) - len(ran)
    assert (table.loc[empty, ("here", "")].str.len() > 0).all()
    (ax,) = systems.figure(found).axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [s.name for s in systems.SYSTEMS if s.member in ran]
    row = labels.index("MSAM (Becker et al., 2024)")
    assert ax.containers[row][0].get_xydata() == pytest.approx(np.array([[5, row]]))
    sees = systems.opening(found)["sees"]
    gain = f"{len(ran)} of {len(ran)} members gain over SGD after Holm's correction"
    assert f"{gain}, on the 2 seeds" in sees
    assert "The largest gain, +10.00 " in sees


@pytest.mark.parametrize("chapter", [family, one_pass, systems])
def test_a_page_opens_with_what_is_said_seen_and_worth(smoke, chapter):
    opening = chapter.opening(smoke)
    assert all(opening.values())
    assert opening["where"] == PROFILE.where
