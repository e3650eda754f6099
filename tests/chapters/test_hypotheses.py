"""The hypotheses of the plan for CIFAR-100: as the plan has them, answered from the records."""

import re
from dataclasses import replace

import pytest
from planted import planted

from samlib.chapters import CHAPTERS, hypotheses, one_pass
from samlib.chapters.hypotheses import PLANNED
from samlib.files import project_root
from samlib.report.results import load
from samlib.study import plan, profiles
from samlib.study.methods import ALL, BASE, DECAY, ON, Method

EVIDENCE = profiles.get("cifar100-10k")
WHOLE = profiles.get("cifar100-45k")


def plan_of(profile):
    """The part of the page that has a profile's plan."""
    page = (project_root() / "book" / "preregistration.md").read_text()
    first, second = page.split("\n## 45,000 images")
    return {"cifar100-10k": first, "cifar100-45k": second}[profile]


@pytest.mark.parametrize("profile", PLANNED)
def test_the_statements_are_those_of_the_plan(profile):
    rows = re.findall(r"^\| (\d+) \| (.*?)(?: \([^|]*\))? \|", plan_of(profile), re.MULTILINE)
    assert rows == [(str(n), h.statement) for n, h in enumerate(PLANNED[profile], start=1)]


def test_the_seeds_are_those_of_the_plan():
    """Of the column *seeds*, by what decides each hypothesis."""
    rows = re.findall(r"^\| (\d+) \|.*\| ([^|]+) \|$", plan_of("cifar100-10k"), re.MULTILINE)
    planned = {int(n): seeds for n, seeds in rows}

    def of(*methods, problem=EVIDENCE.headline, most=None):
        (seeds,) = {EVIDENCE.cell(problem, m).seeds[:most] for m in methods}
        return f"{seeds[0]}–{seeds[-1]}"

    random = Method("l2", "random")
    sparse = [Method("l2", mask) for mask in ("random", "fisher", "dynamic")]
    variants = [Method(g, "only_norm") for g in EVIDENCE.geometries("wrn") if g != "l2"]
    at_first = ON.control(batchnorm="first")
    measured = of(ON, most=EVIDENCE.measured_seeds)
    factors = {of(ON, ALL, problem=problem) for problem in EVIDENCE.bases if "wrn-" in problem}
    assert planned == {
        1: of(ON, ALL),
        2: of(ALL, BASE, DECAY),
        3: of(*sparse),
        4: of(Method("l2", "no_norm")),
        5: of(*(replace(m, rho_from="law") for m in (ON, random))),
        6: of(*variants),
        7: "–",
        8: measured,
        9: of(ON, ALL),
        10: f"{of(ON, BASE)}, {of(at_first)}",
        11: measured,
        12: factors.pop(),
    }
    assert not factors


def answers(found):
    return hypotheses.table(found).set_index("")


@pytest.fixture(scope="module")
def introduction(tmp_path_factory):
    """Records of the introduction: SAM gains 1.5 points, SAM-ON 2.5, a tuned weight decay 0."""
    folder = tmp_path_factory.mktemp("planted")
    return planted(EVIDENCE, {"all": 1.5, "only_norm": 2.5}, folder, only=("introduction",))


def test_what_was_planted_is_seen_and_what_has_no_records_is_not_run(introduction):
    seen = answers(introduction)["verdict"]["seen"]
    told = {1: "seen", 2: "seen", 7: "described", 9: "no difference"}
    assert seen[[*told]].to_dict() == told
    assert set(seen.drop([*told])) == {"not run"}
    assert hypotheses.finding(introduction) == (
        "Of the 12 hypotheses of the plan: 2 seen, 1 described, 1 no difference and 8 not run. The "
        "plan's gate, a training accuracy above 80 % with SGD, was met: 95.0 and 95.0 % on the "
        "tuning seeds."
    )
    on, everything = (introduction.rho(introduction.cell(m)) for m in (ON, ALL))
    assert answers(introduction)["ours"][7] == f"{on / everything:.2g} × for SAM"


def without(results, method):
    cell = results.cell(method)
    runs = {run.run_id for run in cell.at(results.rho(cell))}
    left = {run_id: r for run_id, r in results.records.items() if run_id not in runs}
    return replace(results, records=left)


def test_half_an_answer_is_not_one_and_the_half_is_told(introduction):
    row = answers(without(introduction, DECAY)).loc[2]
    assert row["verdict", "seen"] == "not run"
    assert re.fullmatch(
        r"\+1\.\d\d \[.*] over SGD, not run over SGD, weight decay tuned", row["ours"].item()
    )


@pytest.mark.parametrize(("more", "seen"), [(1.5, "partly"), (4.0, "reversed")])
def test_a_gain_over_the_untuned_base_alone_is_part_of_an_answer(introduction, more, seen):
    decay = {r.run_id for r in introduction.cell(DECAY).runs(introduction.records)}
    base = {r.run_id for r in introduction.cell(BASE).runs(introduction.records)}
    better = {
        run_id: r | {"test_accuracy": r["test_accuracy"] + more * (run_id in decay - base)}
        for run_id, r in introduction.records.items()
    }
    found = replace(introduction, records=better)
    row = answers(found).loc[2]
    assert row["verdict", "seen"] == seen


def test_a_gate_that_is_not_met_is_told(introduction):
    low = {
        run_id: r | {"curves": r["curves"] | {"train_accuracy": [79.0]}}
        for run_id, r in introduction.records.items()
    }
    assert "was not met: 79.0 and 79.0 %" in hypotheses.gate(replace(introduction, records=low))
    assert hypotheses.gate(replace(introduction, records={})) == ""


def test_without_its_own_runs_nothing_is_guessed(introduction, tmp_path):
    for lacking in (without(introduction, ALL), without(introduction, ON)):
        assert answers(lacking)["verdict"]["seen"][1] == "not run"
    empty = load("cifar100-10k", tmp_path)
    assert set(answers(empty)["verdict"]["seen"]) == {"not run"}
    assert set(answers(empty)["ours"]) == {"–"}


def test_one_factor_at_a_time_lists_what_was_run(tmp_path):
    gains = {"all": 1.0, "only_norm": 2.0}
    found = planted(EVIDENCE, gains, tmp_path, only=("architectures",))
    told = hypotheses.one_factor(found).ours.split("), ")
    factors = ["no augmentation", "40 % label noise", "weight decay 0.0005", "ResNet-10-4"]
    assert all(name in part for name, part in zip(factors, told, strict=True))
    assert all(re.match(r"\+\d\.\d\d \[", part) for part in told)
    clean = {r: kept for r, kept in found.records.items() if not kept["config"]["label_noise"]}
    fewer = hypotheses.one_factor(replace(found, records=clean)).ours.split("), ")
    assert fewer == [told[0], "not run (WRN-10-4 (40 % label noise)", *told[2:]]


def test_a_profile_without_a_plan_has_no_hypotheses(smoke):
    assert hypotheses.table(smoke).empty
    assert hypotheses.finding(smoke).endswith(
        "before the runs of cifar100-10k and cifar100-45k only."
    )


def test_every_hypothesis_names_the_chapter_whose_runs_answer_it(introduction):
    chapters = answers(introduction)["chapter"].tolist()
    assert set(chapters) <= {*CHAPTERS} & {*plan.chapters(EVIDENCE)}
    assert [chapters[place - 1] for place in (1, 2, 5, 12)] == [
        *("introduction", "introduction", "law", "architectures")
    ]


def test_with_every_image_the_plan_is_answered_by_four_methods(tmp_path):
    """MSAM has as much as SAM-ON, and recalibration leaves both as they are."""
    gains = {"all": 1.5, "only_norm": 3.0}
    found = planted(WHOLE, gains, tmp_path, only=("introduction", "one_pass"))
    as_usual = {
        run_id: r | {"measures": r["measures"] | {"recalibrated_test_accuracy": r["test_accuracy"]}}
        for run_id, r in found.records.items()
    }
    found = replace(found, records=as_usual)
    cells = [found.cell(m) for m in (BASE, ALL, ON, DECAY, ON.but(member="msam"))]
    assert {cell.seeds for cell in cells} == {tuple(range(10, 18))}
    seen = answers(found)["verdict"]["seen"]
    assert seen.to_dict() == {1: "seen", 2: "seen", 3: "described", 4: "not run", 5: "seen"}
    assert answers(found)["chapter"].tolist()[4] == "one_pass"
    said = one_pass.in_short_recalibrated(found)
    assert said.startswith("Yes, and asked before the runs: MSAM with only norm gets 1")
    assert "first group" not in hypotheses.finding(found)
