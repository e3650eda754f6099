"""The variants chapter on made-up records whose numbers are known."""

from dataclasses import replace

import pytest
from made_up import PROFILE, with_accuracies
from planted import planted

from samlib.chapters import variants
from samlib.study import plan
from samlib.study.methods import Method
from samlib.study.profile import Row

FAMILY = "wrn"
GEOMETRIES = PROFILE.geometries(FAMILY)
MASKS = ("all", "only_norm")


def by_variant(leads):
    """80 for the base optimizer, 90 for all, and only norm ahead by a variant's lead."""

    def rule(config):
        if config["geometry"] == "none":
            return 80.0
        return 90.0 + (config["mask"] == "only_norm") * leads.get(config["geometry"], 0.0)

    return rule


def test_networks_with_plain_sam_alone_are_no_rows(smoke):
    assert plan.varied(PROFILE) == [FAMILY]
    table = variants.table(with_accuracies(smoke, by_variant({})))
    assert len(table) == len(GEOMETRIES) + 1


def test_the_pooled_row_is_the_mean_of_the_variants_seed_by_seed(smoke):
    leads = {geometry: float(i) for i, geometry in enumerate(GEOMETRIES)}
    found = with_accuracies(smoke, by_variant(leads))
    table = variants.table(found)
    means = table["only norm − all"]["mean"].tolist()
    assert means == pytest.approx([*leads.values(), sum(leads.values()) / len(leads)])
    assert table["variant"].iloc[-1] == variants.POOLED
    assert f"{variants.pooled(found, FAMILY)} points" in variants.finding(found)


@pytest.mark.parametrize(
    ("lead", "seen"), [(0.5, "seen"), (0.05, "seen"), (-0.05, "seen"), (-0.5, "reversed")]
)
def test_one_variant_that_loses_reverses_the_claim(smoke, lead, seen):
    worst = next(g for g in GEOMETRIES if g != "l2")
    leads = dict.fromkeys(GEOMETRIES, 1.0) | {worst: lead}
    answer = variants.every_variant(with_accuracies(smoke, by_variant(leads)))
    assert answer.seen == seen
    assert answer.ours.endswith(f"; the lowest of {len(GEOMETRIES) - 1})")


def test_a_variant_counts_on_every_network_that_is_run_with_it():
    rows = [Row(Method("elementwise_l2", mask), (0.5, 1.0), "resnet") for mask in MASKS]
    two = replace(PROFILE, grids=(*PROFILE.grids, *rows))
    found = planted(two, {}, None, only=("variants",))

    def rule(config):
        loses = config["model"] == "wrn10_1" and config["geometry"] == "elementwise_l2"
        return 90.0 + (config["mask"] == "only_norm") * (-1 if loses else 1)

    answer = variants.every_variant(with_accuracies(found, rule))
    assert answer.seen == "reversed", "the other network does not stand for this one"
    assert answer.ours.startswith("−1.00")
    assert answer.ours.endswith(
        f"ASAM elementwise ℓ₂ on WRN-10-1; the lowest of {len(GEOMETRIES)})"
    )


def test_plain_sam_is_claim_3_and_not_this_one(smoke):
    leads = dict.fromkeys(GEOMETRIES, 1.0) | {"l2": -1.0}
    assert variants.every_variant(with_accuracies(smoke, by_variant(leads))).seen == "seen"


def test_the_figure_is_sorted_by_mean_with_the_pooled_row_last(smoke):
    leads = {geometry: float(i) for i, geometry in enumerate(GEOMETRIES)}
    ax = variants.figure(with_accuracies(smoke, by_variant(leads))).axes[0]
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels[-1] == variants.POOLED
    expected = [variants.GEOMETRY_NAMES[g] for g in reversed(GEOMETRIES)]
    assert labels[:-1] == expected
