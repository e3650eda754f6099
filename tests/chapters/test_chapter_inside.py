"""Where the gain sits, on made-up measurements whose numbers are known."""

import functools
import math
from dataclasses import replace

import pytest
from made_up import LAYERS, PROFILE, WEIGHTS, rewritten, with_measures
from planted import OWN, planted, rng_of

from samlib.chapters import anatomy, inside
from samlib.chapters.inside_predictions import PREDICTIONS
from samlib.chapters.why import MET, NOT_MET, outcome
from samlib.measures.measurement import twin
from samlib.measures.robustness import ATTACKS
from samlib.report.stats import NOT_RUN, OPEN, REVERSED, SEEN, Comparison, corrected, share_of_gain
from samlib.study import plan, profiles
from samlib.study.methods import ALL, BASE, ON
from samlib.trainer.config import RunConfig

BY_NAME = {e.name: e for e in PREDICTIONS}


def outcome_of(name, results):
    return outcome(BY_NAME[name], BY_NAME[name].look(results))


def key(config):
    return "base" if config["geometry"] == "none" else config["mask"]


def apart(config):
    """A little that differs from seed to seed, so that there is an interval."""
    return 0.01 * config["seed"]


def with_norms(results, brought, kept):
    """SAM and SAM-ON ten points over their twins; points with, and without, their norm layers."""

    def change(config, values):
        twin = 80.0 + apart(config)
        values["accuracy"] = {
            "twin": twin,
            "own": twin + 10,
            "twin_with_own_norms": twin + brought + apart(config),
            "own_with_twin_norms": twin + kept,
        }

    return with_measures(results, "connectivity", change)


@pytest.mark.parametrize(("brought", "said"), [(0.2, MET), (3.0, NOT_MET)])
def test_the_norm_layers_bring_their_share_of_the_gain(smoke, brought, said):
    found = with_norms(smoke, brought, 9.0)
    assert outcome_of("γ and β alone do not carry the gain", found) == said
    table = inside.exchanged(found)
    ours = table[table["pair", ""] == "SAM-ON and SGD"]
    assert ours["γ and β of", ""].tolist() == ["SGD", "SAM-ON", "SGD", "SAM-ON"]
    assert ours["other weights of", ""].tolist() == ["SGD", "SGD", "SAM-ON", "SAM-ON"]
    share = ours["share of the gain"]["share"].tolist()
    assert share[1:] == pytest.approx([10 * brought, 90, 100], abs=0.1)
    assert ours["− SGD"]["mean"].tolist()[1:] == pytest.approx([brought, 9, 10], abs=0.01)
    opened = inside.opening(found)
    assert "SAM-ON is +10.00" in opened["sees"]
    assert "harms" not in opened["sees"]
    assert opened["seen"] == {MET: SEEN, NOT_MET: REVERSED}[said]
    worse = inside.finding_swap(with_norms(smoke, -8.0, -3.0))
    assert worse.endswith("and the gain belongs to neither alone.")


def with_barriers(results, layer, barrier):
    """Every path level but for one layer, half of whose barrier stands with the twin's rest."""

    def change(config, values):
        own, twin = 0.4 + apart(config), 1.2
        values["whole"] = [own, (own + twin) / 2 + 0.7, twin]
        for of in values["layers"]:
            up = barrier if of["layer"] == layer else 0.0
            of["own"] = [own, own + up + apart(config) / 100, own]
            of["twin"] = [twin, twin + up / 2, twin]

    return with_measures(results, "connectivity", change)


@pytest.mark.parametrize(("height", "said"), [(0.01, MET), (0.2, NOT_MET), (0.05, OPEN)])
def test_the_highest_barrier_of_a_single_layer_decides(smoke, height, said):
    found = with_barriers(smoke, "layer1.0.conv1", height)
    assert outcome_of("one valley layer by layer", found) == said
    shown = BY_NAME["one valley layer by layer"].look(found)[0]
    assert shown.low < height + 1e-4 < shown.high, "the barrier itself, not what is above the bound"
    assert anatomy.highest(found, ON).tolist() == pytest.approx([height] * 2, abs=1e-3)
    table = inside.layers(found).set_index(("layer", ""))
    assert table.index.tolist() == ["all at once", *LAYERS]
    assert table["SAM-ON, rest SAM-ON's", "mean"]["layer1.0.conv1"] == pytest.approx(
        height, abs=1e-3
    )
    assert table["SAM-ON, rest SGD's", "mean"]["layer1.0.conv1"] == pytest.approx(height / 2)
    assert table["SAM, rest SAM's", "mean"]["all at once"] == pytest.approx(0.7)
    said = inside.finding_layers(found)
    assert f"of {len(LAYERS)} layers is {height:.3f} nats, of layer1.0.conv1" in said
    assert said.endswith("move at once it is 0.700 nats.")


def test_a_seed_with_a_barrier_that_is_not_finite_is_left_out(smoke):
    def change(config, values):
        if config["seed"] == 0:
            values["layers"][0]["own"][1] = None

    found = with_measures(with_barriers(smoke, "layer1.0.conv1", 0.2), "connectivity", change)
    assert anatomy.highest(found, ON).index.tolist() == [1]


def with_traces(results, traces):
    """The trace of the norm layers' block and of the rest's by method."""

    def change(config, values):
        norm, rest = (t * (1 + apart(config)) for t in traces[key(config)])
        values["trace"] = {"only_norm": norm, "no_norm": rest, "all": norm + rest}

    return with_measures(results, "curvature", change)


def test_curvature_is_compared_where_it_perturbs_and_elsewhere(smoke):
    found = with_traces(smoke, {"base": (8, 100), "all": (4, 50), "only_norm": (2, 80)})
    assert outcome_of("flat where it perturbs", found) == MET
    assert outcome_of("sharp elsewhere", found) == MET
    table = inside.curvature(found).set_index(("of the Hessian", ""))
    assert table["SAM-ON / SGD", "factor"]["trace, norm layers"] == pytest.approx(0.25)
    assert table["SAM-ON / SAM", "factor"]["trace, all other weights"] == pytest.approx(1.6)
    assert len(table) == 5
    turned = with_traces(smoke, {"base": (2, 100), "all": (4, 80), "only_norm": (8, 50)})
    assert outcome_of("flat where it perturbs", turned) == NOT_MET
    assert outcome_of("sharp elsewhere", turned) == NOT_MET


def test_a_trace_that_is_not_finite_is_left_out(smoke):
    def change(config, values):
        if config["seed"] == 0:
            values["trace"], values["layers"] = None, []

    found = with_measures(smoke, "curvature", change)
    values = anatomy.curvature(found, ON, "trace", "all")
    assert values.isna().tolist() == [True, False]
    assert anatomy.log_ratio(values, values).seeds == 1
    assert inside.weights(found).shape[0] == len(WEIGHTS)


def with_robustness(results, robust):
    """Robust accuracy of every run by a rule of its configuration."""

    def change(config, values):
        values["attacks"] = [a._asdict() | {"accuracy": robust(config)} for a in ATTACKS]

    return with_measures(results, "robustness", change)


def test_the_index_is_ranked_against_its_factors(smoke):
    """Robust accuracy falls with the product of norm and trace, which neither factor orders."""
    place = {"base": 0, "all": 1, "only_norm": 2}
    factors = [(4.0, 9.0), (1.0, 16.0), (9.0, 1.0)]

    def change(config, values):
        squared, trace = factors[place[key(config)]]
        values["layers"] = [
            {"layer": "fc", "weight_squared": squared, "trace": trace * (1 + apart(config))}
        ]

    def robust(config):
        squared, trace = factors[place[key(config)]]
        return 100 - squared * trace * (1 + apart(config))

    found = with_robustness(with_measures(smoke, "curvature", change), robust)
    ranks = anatomy.ranks(anatomy.robust_and_sums(found))
    assert ranks["index"] == pytest.approx(-1)
    assert max(abs(ranks["weight_squared"]), abs(ranks["trace"])) < 0.9
    assert outcome_of("the weight-curvature index", found) == MET
    table = anatomy.robust_and_sums(found)
    lead, low, high = anatomy.lead_of_the_index(table)
    assert low <= lead <= high
    noise = table.assign(robust=[3.0, 1.0, 2.0, 2.5, 1.5, 0.5][: len(table)])
    _, low, high = anatomy.lead_of_the_index(noise)
    assert high - low > 0.1, "an interval, not a number"
    one = anatomy.lead_of_the_index(table.loc[[table.index[0]]])
    assert all(map(math.isnan, one[1:])), "one seed has no interval"
    constant = with_robustness(smoke, lambda config: 50.0)
    assert outcome_of("the weight-curvature index", constant) == OPEN  # equal ones have no rank


def with_gamma(results, gammas):
    """Mean |gamma| of every layer by method."""

    def change(record):
        value = gammas.get(key(record["config"]), 1.0) + apart(record["config"]) / 100
        affine = [a | {"gamma_abs_mean": value} for a in record["measures"]["affine"]]
        return record | {"measures": record["measures"] | {"affine": affine}}

    return rewritten(results, change)


def test_the_toy_is_tested_where_no_normalization_follows(smoke):
    assert list(anatomy.norm_layers(smoke)) == [
        ("wrn", True, ["norm1"]),
        ("wrn", False, ["layer1.0.norm1"]),
        ("vit", True, ["norm1", "layer1.0.norm1"]),
    ]
    met = with_gamma(smoke, {"base": 1.0, "all": 0.9, "only_norm": 1.0})
    lost = with_gamma(smoke, {"base": 1.0, "all": 1.0, "only_norm": 0.9})
    for place in ("before the classifier", "in a transformer"):
        for name in ("SAM", "SAM-ON"):
            assert outcome_of(f"the toy {place} ({name})", met) == MET
            assert outcome_of(f"the toy {place} ({name})", lost) == NOT_MET
    table = inside.gammas(met)
    assert table["layers", ""].tolist() == [1, 1, 2]
    assert table["normalized later", ""].tolist() == ["no", "yes", "no"]
    assert table["SAM − base", "mean"].tolist() == pytest.approx([-0.1] * 3)


def test_a_run_that_diverged_takes_no_layer_away(smoke):
    """Its record has no layers."""
    first = smoke.runs(smoke.cell(BASE))[0]["run_id"]

    def change(record):
        if record["run_id"] != first:
            return record
        return record | {"measures": record["measures"] | {"affine": []}}

    assert list(anatomy.norm_layers(rewritten(smoke, change))) == list(anatomy.norm_layers(smoke))


def test_the_box_has_the_verdict_of_the_table_after_the_correction(smoke, monkeypatch):
    barely = Comparison(0.1, 0.01, 0.19, 5, 0.045, SEEN)
    judged = [(None, (c, "")) for c in corrected([barely] * 9)]
    monkeypatch.setattr(inside, "looked", lambda *of: judged)
    assert inside.opening(with_norms(smoke, 0.2, 9.0))["seen"] == OPEN


def test_a_network_whose_runs_are_not_there_is_left_out(smoke):
    ids = {run.run_id for run in smoke.cell(ON, "vit").runs(smoke.records)}
    few = {i: r for i, r in smoke.records.items() if i not in ids}
    found = replace(smoke, records=few)
    assert {of.problem for of in anatomy.norm_layers(found)} == {"wrn"}
    assert outcome_of("the toy in a transformer (SAM)", found) == NOT_RUN


def turning(results, lead):
    """Clean accuracy 90, after turning 60, SAM-ON ahead of SAM by one and by a lead."""

    def change(config, values):
        on = key(config) == "only_norm"
        clean, after = 90.0 + on, 60.0 + lead * on + apart(config) * on
        values |= {"clean": clean, "angles": [30, 60], "before": [50.0, 20.0]}
        values["after"] = [after, after]

    return with_measures(results, "self_training", change)


@pytest.mark.parametrize(("lead", "said"), [(4.0, MET), (1.0, NOT_MET)])
def test_the_lead_on_turned_digits_is_set_against_the_clean_one(smoke, lead, said):
    found = turning(smoke, lead)
    assert outcome_of("it follows a turn", found) == said
    table = inside.turning(found).set_index(("rotated by", ""))
    assert table.index.tolist() == ["0°", "30°", "60°"]
    assert table["SAM-ON, before", "mean"]["60°"] == 20
    assert table["SAM-ON − SAM, after", "mean"].tolist() == pytest.approx([1, lead, lead], abs=0.01)


def test_without_digits_there_is_nothing_that_turns(smoke):
    found = replace(smoke, measures=smoke.measures | {"self_training": {}})
    assert inside.turning(found).empty
    assert outcome_of("it follows a turn", found) == NOT_RUN
    assert "--only inside" in str(inside.predicted(found)["we see", ""].tolist())


def test_every_prediction_is_in_the_table_and_the_page_opens_with_three_lines(smoke):
    table = inside.predicted(smoke)
    assert table["explanation", ""].tolist() == [e.name for e in PREDICTIONS]
    assert f"Of {len(PREDICTIONS)} predictions" in inside.finding(smoke)
    assert inside.opening(smoke)["where"] == PROFILE.where
    left, right = inside.figure(smoke).axes
    assert len(left.get_yticklabels()) == 4
    assert [t.get_text() for t in right.get_yticklabels()] == list(LAYERS)


def test_the_plan_measures_the_headline_and_pairs_only_what_has_a_twin():
    needs = plan.inside(PROFILE)
    by_measure = {}
    for wanted in needs.measured:
        by_measure.setdefault(wanted.measure, []).append(wanted.cell.method)
    assert by_measure["curvature"] == by_measure["self_training"] == [BASE, ALL, ON]
    assert by_measure["connectivity"] == [ALL, ON]
    photographs = replace(PROFILE, bases={"wrn": PROFILE.bases["wrn"].replace(dataset="cifar10")})
    assert "self_training" not in {w.measure for w in plan.inside(photographs).measured}


# --- planted at the size of the demonstration, with noise of seeds and of runs ---

QUICK = profiles.get("quick")
GAIN = 10.0  # of SAM-ON, in points


@functools.cache
def world():
    return planted(QUICK, {"all": 8.0, "only_norm": GAIN}, None, only=("inside",))


def exchanged(part):
    """γ and β hold a part of the gain; a mixture has noise of its own."""
    found = world()

    def change(config, values):
        config = RunConfig.from_dict(config)
        noise = rng_of("mixed", config.run_id).normal(0, OWN, 2)
        own, other = (found.records[c.run_id]["test_accuracy"] for c in (config, twin(config)))
        values["accuracy"] = {
            "own": own,
            "twin": other,
            "twin_with_own_norms": other + part * GAIN + noise[0],
            "own_with_twin_norms": own - part * GAIN + noise[1],
        }

    return with_measures(found, "connectivity", change)


@pytest.mark.parametrize(
    ("part", "said"), [(0.0, MET), (0.1, OPEN), (0.5, NOT_MET), (1.0, NOT_MET)]
)
def test_the_part_of_the_gain_that_is_planted_in_the_norm_layers_is_found(part, said):
    found = exchanged(part)
    assert outcome_of("γ and β alone do not carry the gain", found) == said
    gains = anatomy.gains(found, ON)
    share = share_of_gain(gains["twin_with_own_norms"], gains["own"])
    assert share.low < part < share.high
    assert share.seeds == QUICK.measured_seeds


def curved(**blocks):
    """Traces by method, with a tenth of noise that a seed's runs share, and a tenth alone."""

    def change(config, values):
        shared = rng_of("curved", config["seed"]).normal(0, 0.1)
        draw = rng_of("own", key(config), config["seed"])
        norm, rest = (
            trace * math.exp(shared + draw.normal(0, 0.1)) for trace in blocks[key(config)]
        )
        values["trace"] = {"only_norm": norm, "no_norm": rest, "all": norm + rest}

    return with_measures(world(), "curvature", change)


def test_curvature_that_is_planted_is_found_and_none_where_none_is():
    found = curved(base=(8, 100), all=(4, 50), only_norm=(2, 100))
    for name in ("flat where it perturbs", "sharp elsewhere"):
        assert outcome_of(name, found) == MET
        assert outcome_of(name, curved(**dict.fromkeys(("base", "all", "only_norm"), (5, 80)))) in (
            OPEN,
            NOT_MET,
        )
    table = inside.curvature(found).set_index(("of the Hessian", ""))
    found = table["SAM-ON / SAM", "factor"]
    assert found["trace, norm layers"] == pytest.approx(0.5, rel=0.3)
    assert found["trace, all other weights"] == pytest.approx(2, rel=0.3)
