"""Claims, what a problem can say of them, and verdicts in two parts."""

import dataclasses
import math

import pytest
from made_up import PROFILE, with_accuracies
from planted import planted

from samlib.chapters import CHAPTERS, claims, questions, verdicts
from samlib.report import tidy
from samlib.report.formats import as_text
from samlib.report.results import Results, load
from samlib.report.stats import Share
from samlib.study import profiles

COMMAND = "python -m samlib run --profile smoke"
PAPER = {"cifar10", "cifar100", "imagenet"}
NETWORKS = {"wrn28_10", "resnet56", "resnext29_32x4d", "vit_t", "vit_s", "resnet50", "vit_s32"}


def test_every_claim_is_answered_by_one_chapter():
    answered = [key for module in CHAPTERS.values() for key in module.DECIDES]
    assert sorted(answered) == sorted(claims.BY_KEY)
    assert {key.rstrip("abc") for key in answered} == {str(n) for n in range(1, 16)}


@pytest.mark.parametrize("name", profiles.PROFILES)
@pytest.mark.parametrize("key", claims.BY_KEY)
def test_every_profile_says_what_it_can_say_of_every_claim(name, key):
    found = claims.bearing(name, key)
    assert found.on_paper in (claims.SAME, claims.ANALOGUE, claims.DIFFERS, claims.UNTESTABLE)
    assert 1 <= len(found.reason.split()) <= 10


def is_the_papers(base):
    """Data set, network, and half of the schedule."""
    epochs = 45 if base.dataset == "imagenet" else 100
    return base.dataset in PAPER and base.model in NETWORKS and base.epochs >= epochs


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_same_is_the_papers_data_and_half_of_its_schedule_or_a_count(name):
    profile = profiles.get(name)
    for key in claims.BY_KEY.keys() - {"11a", "12"}:
        asked = profile.transformers if key in ("5", "6") else (profile.headline,)
        own = all(is_the_papers(profile.bases[problem]) for problem in asked)
        assert own or claims.bearing(name, key).on_paper != claims.SAME, key
    assert claims.bearing(name, "12").on_paper == claims.SAME


def decay(base, images):
    """What weight decay amounts to: the sum of lr * decay / (1 - momentum), cosine's mean lr."""
    steps = base.epochs * math.ceil(images / base.batch_size)
    return steps * base.lr / 2 * base.weight_decay / (1 - base.momentum)


def test_weight_decay_acts_as_little_at_quick_as_its_reason_says():
    quick, paper = (profiles.get(name).bases["wrn"] for name in ("quick", "paper"))
    ratio = decay(paper, 50_000) / decay(quick, quick.train_size)
    assert "1,100 times" in claims.bearing("quick", "10").reason
    assert ratio == pytest.approx(1100, rel=0.05)


def test_the_smaller_schedule_is_a_sixteenth_of_the_papers():
    ours, paper = (profiles.get(name).bases["wrn"] for name in ("cifar100-10k", "paper"))
    steps = [b.epochs * math.ceil(n / b.batch_size) for b, n in ((ours, 10_000), (paper, 50_000))]
    assert "1/16 of the steps" in claims.bearing("cifar100-10k", "3").reason
    assert steps[1] / steps[0] == pytest.approx(16, abs=1)
    on_all = profiles.get("cifar100-45k").bases["wrn"]
    ratio = steps[1] / (on_all.epochs * math.ceil(45_000 / on_all.batch_size))
    assert "less than a fifth of the steps" in claims.bearing("cifar100-45k", "3").reason
    assert 5 < ratio < 6


def test_there_is_a_row_for_each_claim_the_most_important_first(smoke):
    table = verdicts.table(smoke)
    assert table[""].tolist() == list(claims.BY_KEY)
    assert table[""].tolist()[:2] == ["3", "8"]
    run = {key for key in claims.BY_KEY if verdicts.verdict(key, smoke).seen != "not run"}
    assert claims.BY_KEY.keys() - run == {"2", "6"}, "another network, and Lion"


def test_what_was_seen_is_never_told_without_where(smoke):
    where = set(verdicts.table(smoke)["verdict"]["where"])
    assert where == {PROFILE.where, "by count", "on made up, 1 thread"}
    texts = as_text(verdicts.table(smoke))["verdict"]
    assert all(text.endswith(tuple(where)) for text in texts)


def test_holds_and_refuted_are_for_a_claims_own_domain(smoke, monkeypatch):
    found = with_accuracies(smoke, lambda c: 80.0 + (c["rho"] > 0) + (c["mask"] == "only_norm"))
    assert verdicts.verdict("3", found).seen == "seen"
    assert verdicts.verdict("11a", found).seen == "seen", "of a smaller network"
    own = claims.Bearing(claims.SAME, "as in the paper")
    monkeypatch.setattr(verdicts, "bearing", lambda *of: own)
    assert verdicts.verdict("3", found).seen == "holds"
    lost = with_accuracies(smoke, lambda c: 80.0 + (c["rho"] > 0) - (c["mask"] == "only_norm"))
    assert verdicts.verdict("3", lost).seen == "refuted"


def test_a_claim_without_records_is_not_run_and_has_its_command(tmp_path):
    empty = load("smoke", tmp_path)
    seen = verdicts.table(empty).set_index("")["verdict"]["seen"]
    assert (seen.drop(["12"]) == "not run").all(), "12 is counted, not trained"
    (row,) = as_text(verdicts.not_run(empty)).to_dict("records")
    assert row["claims"] == "11a", "the runs of smoke are a test of the code"
    _, row = as_text(verdicts.not_run(load("quick", tmp_path))).to_dict("records")
    elsewhere = f"--results {tmp_path}"
    assert row["to run them"] == f"python -m samlib run --profile quick {elsewhere}"
    assert int(row["missing"].replace(",", "")) > 1000
    assert "2" not in row["claims"].replace(" and ", ", ").split(", ")


def test_where_nothing_is_left_to_run_the_table_is_empty(smoke, monkeypatch):
    monkeypatch.setattr(verdicts, "not_run", lambda results: tidy.table([]))
    assert verdicts.elsewhere(smoke).empty


def test_a_profile_with_some_records_has_a_command_for_each_chapter_that_lacks_some(
    smoke, monkeypatch
):
    about = claims.Bearing(claims.ANALOGUE, "a small network")
    monkeypatch.setattr(verdicts, "bearing", lambda *of: about)
    assert verdicts.not_run(smoke).empty, "2 and 6 need other runs than those of smoke"
    kept = {key: r for key, r in smoke.records.items() if r["config"]["mask"] != "random"}
    rows = as_text(verdicts.not_run(dataclasses.replace(smoke, records=kept)))
    there = f"--results {smoke.folder.parent}"
    of_masks = rows.set_index("to run them").loc[f"{COMMAND} --only sparsity {there}"]
    assert of_masks["claims"] == "8"
    timed = dataclasses.replace(smoke, folder=smoke.folder.parent / "untimed" / "smoke")
    rows = as_text(verdicts.not_run(timed))
    assert rows["to run them"].tolist() == [
        f"python -m samlib bench step --profile smoke --results {timed.folder.parent}"
    ]
    none = smoke.folder.parent / "none"
    rows = as_text(verdicts.not_run(load("paper", none)))
    step = f"python -m samlib bench step --profile paper --device cuda --results {none}"
    assert step in rows["to run them"].tolist()


def test_the_box_of_a_page_has_its_three_lines(smoke):
    lines = verdicts.opening("3", smoke)
    assert lines["says"].startswith("SAM-ON beats SAM")
    assert "+0.60, each at its best ρ" in lines["says"]
    assert lines["sees"].endswith(" points, 2 seeds")
    assert lines["where"] == PROFILE.where
    assert "not testable here (a test of the code" in lines["worth"]


def test_the_old_rule_stands_beside_the_new(smoke):
    lead = with_accuracies(smoke, lambda c: 80.0 + 0.1 * (c["mask"] == "only_norm"))
    row = verdicts.old_and_new(lead).set_index("").loc["3"]
    assert row["by the old rule", ""] == "holds", "above zero came before inside the margin"
    assert row["now", "seen"] == "no difference"


def test_the_sentence_above_the_table_says_what_the_verdicts_are_about(smoke):
    said = verdicts.scope(smoke)
    assert PROFILE.about in said
    assert "in claim 12 only" in said


def level(on=91.0, everything=90.0, random=85.0):
    def rule(config):
        if config["geometry"] == "none":
            return 80.0
        masks = {"only_norm": on, "random": random}
        return masks.get(config["mask"], everything)

    return rule


def test_the_six_questions_follow_the_records(smoke):
    here = f"here, {PROFILE.where}"
    answers = questions.table(with_accuracies(smoke, level()))[here].tolist()
    assert answers[0] == "Yes: 110 % [110, 110] of SAM's gain"
    assert answers[1].startswith("Yes: +1.00 [+1.00, +1.00] points")
    assert answers[2].startswith("Yes: +1.00 [+1.00, +1.00] points")  # the random one is lower
    assert answers[2].endswith("over as many weights chosen otherwise (SSAM-F, the lowest of 3)")
    assert answers[3].split(":")[0] in ("Larger", "Not larger")
    assert answers[3].endswith("; described, not tested")
    assert answers[5].startswith("Open: MSAM with only norm gets 100 % [100, 100] of SAM-ON's gain")
    same = questions.table(with_accuracies(smoke, level(on=90.0, random=90.0)))[here].tolist()
    assert same[0] == "Yes: 100 % [100, 100] of SAM's gain"
    assert same[1].startswith("No difference")
    assert same[2].startswith("No: +0.00 [+0.00, +0.00] points")
    none = questions.table(with_accuracies(smoke, level(everything=80.0)))[here].tolist()
    assert none[0].startswith("SAM has no clear gain here; SAM-ON: +11.00 "), "and no share of it"
    for on, word in ((85.0, "Less: 50 % [50, 50]"), (94.0, "More: 140 % [140, 140]")):
        other = questions.table(with_accuracies(smoke, level(on=on)))[here].tolist()
        assert other[0] == f"{word} of SAM's gain"


def test_a_share_that_is_not_known_to_be_sams_is_open(smoke, monkeypatch):
    """100 % inside an interval is no answer where the interval is wide."""
    for low, high, word in ((0.91, 1.01, "Yes"), (0.1, 1.9, "Open"), (0.85, 1.3, "Open")):
        share = Share(1.0, low, high, 5)
        monkeypatch.setattr(Results, "share", lambda *given, share=share: share)
        found = with_accuracies(smoke, level())
        assert questions.does_the_same(found).startswith(f"{word}: 100 % ")


def test_another_problem_has_a_column_of_its_own(smoke, tmp_path):
    found = with_accuracies(smoke, level())
    quick = load("quick", tmp_path)
    table = questions.table(quick, found)
    assert list(table.columns.get_level_values(0)) == [
        *("question", "here, on noisy digits", f"here, {PROFILE.where}", "the paper, on CIFAR-100")
    ]
    assert set(table["here, on noisy digits"]) == {"not run"}
    assert table[f"here, {PROFILE.where}"].tolist()[1].startswith("Yes: +1.00")


def test_a_question_that_a_profile_cannot_answer_says_so(tmp_path):
    imagenet = profiles.get("imagenet")
    bases = {"vit": imagenet.bases["vit"].replace(model="vit_micro")}  # is built faster
    small = dataclasses.replace(imagenet, bases=bases)
    found = planted(small, {}, tmp_path / "imagenet", only=("introduction",))
    answers = questions.table(found)["here, on ImageNet"].tolist()
    assert answers[2] == "not run", "no random mask"
    assert answers[4] == "The network has no BatchNorm"


def test_a_question_without_records_is_not_run(tmp_path):
    table = questions.table(load("smoke", tmp_path))
    assert set(table[f"here, {PROFILE.where}"]) == {"not run"}
    assert table["the paper, on CIFAR-100"].tolist()[1] == "+0.60, both tuned"
