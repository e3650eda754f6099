"""The chapters on explanations, on made-up records whose numbers are known."""

import math
from dataclasses import replace

import pytest
from made_up import PROFILE, rewritten, with_accuracies

from samlib.chapters import explanations, is_it_norm, why
from samlib.chapters.why import MET, NOT_MET
from samlib.files import project_root
from samlib.report.counting import whole_tensors
from samlib.report.results import load
from samlib.report.stats import NOT_RUN, OPEN, REVERSED, SAME, SEEN, Comparison
from samlib.study import members, plan
from samlib.study.methods import ALL, ON

BY_NAME = {e.name: e for e in explanations.EXPLANATIONS}


def is_on(config):
    return config["geometry"] == "l2" and config["mask"] == "only_norm"


def outcome_of(name, results):
    return why.outcome(BY_NAME[name], BY_NAME[name].look(results))


@pytest.mark.parametrize(
    ("seen", "met_by", "said"),
    [
        (SEEN, (SEEN,), MET),
        (SAME, (SEEN,), NOT_MET),
        (REVERSED, (SAME, REVERSED), MET),
        (OPEN, (SEEN,), OPEN),
        (NOT_RUN, (SEEN,), NOT_RUN),
    ],
)
def test_a_prediction_is_met_by_what_it_says(seen, met_by, said):
    e = explanations.Explanation("", "", lambda results: None, met_by)
    found = Comparison(0.0, 0.0, 0.0, 2, 1.0, seen), ""
    assert why.outcome(e, found) == said
    assert why.outcome(e, None) == NOT_RUN


def fitting(results, extra):
    """A rule of records on a line: test = 100 - train, SAM-ON so many points off it."""
    on = {run["run_id"] for run in results.runs(results.cell(ON))}

    def change(record):
        config = record["config"]
        total = sum(map(ord, config["mask"] + config["geometry"]))
        train = 60.0 + 3 * (total % 7) + total % 50 / 50 + 0.1 * config["seed"]
        test = 100.0 - train + extra * (record["run_id"] in on)
        curves = record["curves"] | {"train_accuracy": [train]}
        return record | {"curves": curves, "test_accuracy": test}

    return change


@pytest.mark.parametrize(("extra", "said"), [(0.0, MET), (2.0, NOT_MET)])
def test_memorisation_is_refuted_by_a_method_off_the_line(smoke, extra, said):
    found = rewritten(smoke, fitting(smoke, extra))
    off, what = explanations.memorisation(found)
    assert off.mean == pytest.approx(extra, abs=0.15)  # other variants with only norm are on it
    assert outcome_of("less memorisation", found) == said
    assert "correlation −" in what
    table = explanations.fits(found)
    assert len(table) == len(why.figure(found).axes[0].lines)


def test_methods_whose_training_accuracy_is_of_moved_weights_are_left_out(smoke):
    """A step of one pass computes its only logits at w + eps."""
    cells = explanations.finished(smoke)
    found = {members.member(m) for m in explanations.fits(smoke)["method"]}
    assert "msam" in {members.member(cell.method) for cell in cells}
    assert {"sam", "usam"} <= found
    assert "msam" not in found


def test_the_line_of_memorisation_is_local_and_its_own_error_counts(smoke):
    """Methods far from SAM's training accuracy lie elsewhere and change nothing."""
    whole = rewritten(smoke, fitting(smoke, 0.0))
    sam = explanations.fits(whole).set_index("method").loc[ALL, "train"]

    def far(record):
        curves = record["curves"]["train_accuracy"]
        if abs(curves[-1] - sam) <= explanations.NEAR or is_on(record["config"]):
            return record
        return record | {"test_accuracy": 0.0}

    off, _ = explanations.memorisation(rewritten(whole, far))
    same, _ = explanations.memorisation(whole)
    assert off.mean == pytest.approx(same.mean, abs=1e-9)

    def scatter(record):
        sign = -1 if len(record["config"]["mask"]) % 2 else 1
        return record | {"test_accuracy": record["test_accuracy"] + 8 * sign}

    wide, _ = explanations.memorisation(rewritten(whole, scatter))
    assert wide.high - wide.low > 2 * (same.high - same.low)


def test_a_control_that_is_run_in_part_is_not_run(monkeypatch, tmp_path):
    """The page stands without its controls, whatever is there of them."""
    quick = load("quick", project_root() / "results")
    cell = explanations._on(quick, "downhill")
    gone = {run.run_id for run in cell.at(quick.rho(cell))}
    left = {run_id: r for run_id, r in quick.records.items() if run_id not in gone}
    found = replace(quick, records=left)
    seen = why.table(found).set_index("explanation")["prediction is"]
    assert seen.loc["any move along the gradient"] == NOT_RUN
    assert "not run: any move along the gradient" in why.opening(found)["sees"]


def test_predictions_of_a_page_are_corrected_together(smoke, monkeypatch):
    def of(p):
        return lambda results: (Comparison(1.0, 0.1, 1.9, 5, p, SEEN), "made up")

    several = [explanations.Explanation(str(p), "", of(p)) for p in (0.001, 0.03, 0.04)]
    assert [why.outcome(e, found) for e, found in why.looked(smoke, several)] == [MET, OPEN, OPEN]
    assert [why.outcome(e, found) for e, found in why.looked(smoke, several[1:2])] == [MET]


def test_the_effective_rate_compares_logarithms_of_the_norm(smoke):
    def change(record):
        norm = 9.0 if is_on(record["config"]) else 10.0
        return record | {"curves": record["curves"] | {"weight_norm": [1.0, norm]}}

    found, _ = explanations.effective_rate(rewritten(smoke, change))
    assert found.mean == pytest.approx(100 * math.log(0.9))
    assert outcome_of("a larger effective learning rate", rewritten(smoke, change)) == MET
    none = rewritten(smoke, lambda r: r | {"curves": r["curves"] | {"weight_norm": [None]}})
    assert explanations.effective_rate(none) is None, "every run diverged"


def test_the_toy_predicts_that_gamma_grows(smoke):
    def change(grown):
        def of(record):
            gamma = 1.0 + grown * is_on(record["config"])
            return record | {"measures": record["measures"] | {"gamma_abs_mean": gamma}}

        return of

    for grown, said in ((0.1, MET), (0.0, NOT_MET), (-0.1, NOT_MET)):
        assert outcome_of("the toy of two parameters", rewritten(smoke, change(grown))) == said


def test_the_law_is_met_within_a_root_of_two(smoke):
    sam = smoke.cell(ALL)
    ratio = smoke.rho(smoke.cell(ON)) / smoke.rho(sam)

    def shares(factor):
        share = (factor / ratio) ** 2

        def change(record):
            return record | {"measures": record["measures"] | {"tensor_shares": of_tensors(share)}}

        return change

    names, norms = (whole_tensors(PROFILE.bases["wrn"], method) for method in (ALL, ON))

    def of_tensors(share):
        rest = (1 - share) / (len(names) - len(norms))
        return {name: share / len(norms) if name in norms else rest for name in names}

    for factor, said in ((1.0, MET), (1.3, MET), (1.6, NOT_MET), (0.5, NOT_MET)):
        found = rewritten(smoke, shares(factor))
        assert outcome_of("nothing but the size of the step (the law)", found) == said


def test_what_is_not_run_says_so_with_its_command(smoke):
    table = why.table(smoke).set_index(("explanation", ""))
    row = table.loc["noise rather than ascent"]
    assert row["prediction is", ""] == NOT_RUN
    assert "python -m samlib run --profile smoke --only why" in row["we see", ""]
    assert "not run: " in why.opening(smoke)["sees"]
    assert why.opening(smoke)["where"] == PROFILE.where


def test_what_a_control_keeps_is_told_beside_sam_on(smoke, monkeypatch):
    """SAM-ON gains 10 over the base; the control 5, so that it is 5 behind and keeps a half."""
    look = explanations._sam_on_minus("felt_by_mask", "control")

    def rule(config):
        if config["geometry"] == "none":
            return 80.0
        return 85.0 if config["member"] == "felt_by_mask" else 90.0

    found, what = look(with_accuracies(smoke, rule))
    assert found.mean == pytest.approx(5.0)
    assert found.seen == SEEN
    assert "which has 50 %" in what


# --- is it the normalization ---------------------------------------------------------------------


def routes_of(layer_norm, dyt, scales, held):
    """A rule by which SAM is at 85 and SAM-ON ahead of what each route compares it with."""

    def rule(config):
        lead = {"vit_micro": layer_norm, "vit_micro_dyt": dyt}.get(config["model"])
        if lead is not None:
            return 85.0 + lead * is_on(config)
        if config["geometry"] == "none":
            return 80.0
        if config["updated"] == "no_norm":
            return 80.0 + held
        return 90.0 - scales * (not is_on(config))

    return rule


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ((3.0, 0.0, 2.0, 1.0), SEEN),  # the gain is 10, 1 of it left
        ((3.0, 3.0, 2.0, 1.0), SAME),
        ((3.0, 0.0, -2.0, 1.0), REVERSED),
        ((3.0, 0.0, 2.0, 10.0), SAME),
    ],
)
def test_claim_14_needs_every_route(smoke, given, seen):
    found = with_accuracies(smoke, routes_of(*given))
    assert is_it_norm.verdict(found).seen == seen
    by_route = {
        n: [c.mean for c in route.values()] for n, route in is_it_norm.routes(found).items()
    }
    assert by_route[1] == pytest.approx([given[0] - given[1]])
    assert by_route[2] == pytest.approx([given[2]] * 2)
    assert by_route[3] == pytest.approx([10 - given[3]])
    assert f"All three together: {seen}." in is_it_norm.finding(found)
    assert len(is_it_norm.table(found)) == 4
    (ax,) = is_it_norm.figure(found).axes
    drawn = [bar[0].get_xdata()[0] for bar in ax.containers]
    assert drawn == pytest.approx([mean for route in by_route.values() for mean in route])
    assert is_it_norm.opening(found)["seen"] == seen


def test_dyt_stands_beside_layer_norm(smoke):
    found = with_accuracies(smoke, routes_of(3.0, 1.0, 2.0, 1.0))
    table = is_it_norm.replaced(found)
    assert table["in the norm's place", ""].tolist() == ["LayerNorm"] * 3 + ["DyT"] * 3
    leads = table["SAM-ON − SAM"]["mean"].dropna().tolist()
    assert leads == pytest.approx([3.0, 1.0])
    assert {run.model for run in plan.dyt(PROFILE)[3].runs({})} == {"vit_micro_dyt"}
    assert "γ only" in is_it_norm.parts(found)["perturbed", ""].tolist()


def test_a_route_that_is_not_run_leaves_the_claim_open_to_no_verdict(smoke, monkeypatch):
    monkeypatch.setattr(plan, "dyt", lambda profile: [])
    assert is_it_norm.verdict(smoke).seen == NOT_RUN
    assert "route 1 is not run" in is_it_norm.finding(smoke)
    assert is_it_norm.replaced(smoke).empty
