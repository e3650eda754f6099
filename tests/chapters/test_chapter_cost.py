"""The chapter on cost, on made-up records and step times whose numbers are known."""

import math
from dataclasses import replace

import pytest
from made_up import PROFILE, PROVENANCE, RATIOS, steps_timed

from samlib.bench import networks, timing
from samlib.chapters import cost
from samlib.errors import RecordsMissing
from samlib.records import store
from samlib.report import campaign_cost, formats, step_times
from samlib.report.text import span
from samlib.study import plan, profiles
from samlib.study.cells import Cell, all_cells, count_runs
from samlib.study.methods import ALL, BASE, ON
from samlib.trainer.config import RunConfig


@pytest.fixture
def rewritten(smoke, tmp_path):
    """A function that gives every run the test accuracy of its mask, in a folder of its own."""
    steps_timed(tmp_path)

    def rewrite(base=80.0, **accuracy):
        level = {"all": 89.0, "only_norm": 90.0, "blocks_1": 80.0, "blocks_23": 91.0} | accuracy
        found = {}
        for run_id, record in smoke.records.items():
            config = record["config"]
            mean = base if config["geometry"] == "none" else level.get(config["mask"], 85.0)
            found[run_id] = record | {"test_accuracy": mean + 0.01 * config["seed"]}
        return replace(smoke, records=found, folder=tmp_path / PROFILE.name)

    return rewrite


def test_the_posters_case_is_seen_in_all_three_parts(rewritten):
    found = rewritten()
    order = cost.cheaper(found)
    assert (order.seen, order.where) == ("seen", "on made up, 1 thread")
    assert order.ours == "1.75 × against 2.00 ×; 1.50 × for stages 2 and 3"
    assert cost.late_stages(found).seen == "seen"
    assert cost.first_stage(found).seen == "seen", "useless is useless"
    assert cost.first_stage(found).seeds == PROFILE.seeds


def test_the_papers_network_stands_beside_the_posters_times(rewritten):
    found = rewritten()
    assert cost.papers_network(found).empty
    assert "bench gpu --networks wrn28_10:128" in cost.finding_papers_network(found)
    network = timing.network(RunConfig(dataset="cifar100", model="wrn28_10", precision="bf16"))
    gpu = {"run_id": "step-gpu", "setting": {"device": "cuda", "threads": 1}, "network": network}
    for size, replayed in ((512, True), (128, "SAMLIB_GRAPHS is 0"), (128, True)):
        assert cost.papers_network(found).empty, "another batch, or Python's time"
        on = gpu | {"provenance": PROVENANCE | {"gpu": "a GPU", "replayed": replayed}}
        on["network"] = network | {"batch_size": size}
        steps_timed(found.folder.parent, RATIOS | {"only_norm": 1.8}, **on)
    rows = cost.papers_network(found).set_index("method")
    assert rows["reported time"].squeeze().tolist() == [1.96, 1.73, 1.7, 1.37, 1.29, 1.38]
    assert rows["time", "median"].tolist() == [2.0, 1.8, 1.7, 1.5, 1.25, 1.5]
    said = cost.finding_papers_network(found)
    assert "on a GPU: over the step of SGD, SAM 2.00 × (poster 1.96 ×), SAM-ON 1.80 × " in said
    order = cost.cheaper(found)
    assert order.in_a_cell == "1.75 × against 2.00 ×; 1.50 × for stages 2 and 3", "its own network"
    assert order.ours.endswith(
        ". The paper's network on a GPU: 1.80 × against 2.00 ×; 1.50 × for stages 2 and 3"
    )


@pytest.mark.parametrize(
    ("accuracy", "late", "first"),
    [
        ({"blocks_23": 90.0}, "seen", "seen"),  # as good as all stages is enough
        ({"blocks_23": 89.0}, "reversed", "seen"),
        ({"blocks_1": 79.0}, "seen", "seen"),
        ({"blocks_1": 81.0}, "seen", "reversed"),
    ],
)
def test_each_part_about_accuracy_stands_alone(rewritten, accuracy, late, first):
    found = rewritten(**accuracy)
    assert (cost.late_stages(found).seen, cost.first_stage(found).seen) == (late, first)
    assert cost.cheaper(found).seen == "seen"


@pytest.mark.parametrize(
    ("changed", "seen"),
    [
        ({"only_norm": 1.985}, "open"),  # quartiles overlap SAM's
        ({"only_norm": 2.1}, "reversed"),
        ({"blocks_23": 1.76}, "open"),
        ({"blocks_23": 1.9}, "reversed"),
        ({"blocks_1": 3.0, "blocks_3": 0.5}, "seen"),  # not asked
    ],
)
def test_times_count_where_their_quartiles_are_apart(rewritten, changed, seen):
    found = rewritten()
    steps_timed(found.folder.parent, RATIOS | changed)
    assert cost.cheaper(found).seen == seen


def test_a_profile_without_stages_has_their_time_alone_and_no_verdict_on_them(rewritten):
    found = rewritten()
    grids = tuple(row for row in PROFILE.grids if "blocks" not in row.method.mask)
    found = replace(found, profile=replace(PROFILE, grids=grids))
    table = cost.table(found)
    assert list(table["method"]) == ["SGD", "SAM", "SAM-ON", "SAM-ON, stages 2 and 3"]
    late = table.iloc[-1]
    assert late["time", "median"] > 0
    assert late["accuracy"].isna().all()
    assert cost.late_stages(found).seen == cost.first_stage(found).seen == "not run"
    assert len(cost.figure(found).axes) == 2


def test_the_table_shows_time_and_accuracy_beside_the_posters(rewritten):
    table = cost.table(rewritten()).set_index("method")
    assert list(table.index[:3]) == ["SGD", "SAM", "SAM-ON"]
    late = table.loc["SAM-ON, stages 2 and 3"]
    assert late["reported time", ""] == 1.38
    assert late["reported accuracy", "reported"] == 84.42
    assert late["time"].tolist() == [1.49, 1.50, 1.51]
    assert late["floor", ""] == 1.45
    assert late["accuracy", "mean"] == pytest.approx(91.005)
    assert late["SAM-ON minus it", "mean"] == pytest.approx(-1.0)
    assert late["SAM-ON minus it", "seen"] == "reversed"
    assert table.loc["SGD"]["SAM-ON minus it", "mean"] == pytest.approx(10.0)
    assert table.loc["SAM"]["SAM-ON minus it", "seen"] == "seen"
    assert table.loc["SAM-ON"]["SAM-ON minus it"].isna().all()


def test_the_finding_follows_the_times(rewritten):
    found = rewritten()
    said = cost.finding(found)
    assert "SAM-ON's takes 1.75 times, less than SAM's" in said
    assert "on stages 2 and 3 alone it takes 1.50 times, less than SAM-ON's" in said
    steps_timed(found.folder.parent, RATIOS | {"only_norm": 2.2, "blocks_23": 2.2})
    said = cost.finding(found)
    assert "more than SAM's" in said
    assert "not told apart from SAM-ON's" in said


def test_without_step_times_the_page_says_so(rewritten):
    found = rewritten()
    for path in (found.folder.parent / "bench").iterdir():
        path.unlink()
    with pytest.raises(RecordsMissing, match="bench step --profile smoke --results"):
        cost.cheaper(found)
    assert set(formats.as_text(cost.table(found))["time"]) == {"not run"}
    for table in (step_times.table(found), step_times.pieces(found), step_times.memory(found)):
        assert table.empty
    for said in (cost.finding(found), step_times.finding(found), campaign_cost.finding(found)):
        assert "ot run" in said
        assert "python -m samlib bench" in said
    assert len(cost.figure(found).axes) == 2
    assert set(formats.as_text(campaign_cost.table(found))["on 8 devices"]) == {"not measured"}


def test_another_network_or_device_is_not_the_profiles_own(rewritten):
    found = rewritten()
    network = step_times.own(found)["network"]
    gpu = {"device": "cuda", "threads": 1, "rounds": 20}
    steps_timed(found.folder.parent, setting=gpu, provenance=PROVENANCE | {"gpu": "a GPU"})
    with pytest.raises(RecordsMissing):
        step_times.own(found)
    assert "on a GPU" in step_times.table(found)["timed"][0]
    other = network | {"batch_size": 7}
    steps_timed(found.folder.parent, run_id="step-other", network=other)
    with pytest.raises(RecordsMissing):
        step_times.own(found)
    steps_timed(found.folder.parent, run_id="step-own")
    assert len(step_times.table(found)) == 3
    assert step_times.timed(found)[0]["run_id"] == "step-own"


def test_the_figure_puts_every_method_at_its_time_and_difference(rewritten):
    left, right = cost.figure(rewritten()).axes
    ours = ["SGD", "SAM", "SAM-ON", "B1", "B2+B3"]  # the stages the profile trains
    theirs = ["SGD", "SAM", "SAM-ON", "B1", "B2", "B3", "B2+B3"]
    both = (left, (1.38, 84.42 - 84.03), theirs), (right, (1.50, 1.0), ours)
    for ax, late, labels in both:
        spots = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines]
        assert any(spot == pytest.approx(late) for spot in spots)
        assert [text.get_text() for text in ax.texts] == labels
    ticks = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "|"]
    assert ticks == pytest.approx([1.95, 1.70, 1.65, 1.45])


def test_the_pieces_add_up_to_the_floor(rewritten):
    table = step_times.pieces(rewritten()).set_index("step")
    wanted = ["second pass", "optimizer", "floor"]
    assert table.loc["SGD"][wanted].tolist() == pytest.approx([9.0, 0.5, 9.5])
    late = table.loc["B2+B3"].droplevel(1)
    assert late["backward to the mask"] == pytest.approx(4.0)
    assert late["second pass"] == pytest.approx(8.0), "1 ms is taken over from the first pass"
    assert late["floor"] == pytest.approx(15.5)
    assert late["measured"] == pytest.approx(15.0)


def test_memory_is_shown_beside_the_base_optimizers(rewritten):
    table = formats.as_text(step_times.memory(rewritten()), digits=2)
    table = table.set_index("step").drop(columns="timed")
    assert list(table.index) == ["SGD", "SAM", "SAM-ON", "B2+B3"], "a peer that was not there"
    assert table.loc["SGD"].tolist() == ["20.00", "1.000", "–", "–"]
    assert table.loc["SAM"].tolist() == ["24.01", "1.200", "4.010", "100.2 %"]
    assert table.loc["SAM-ON"].tolist() == ["20.02", "1.001", "0.020", "0.5 %"]


def base_run(**changes):
    return RunConfig(dataset="cifar100", model="resnet56", batch_size=100, **changes)


def epochs_timed(base, device="cpu"):
    """A record in which a step takes one second and the evaluation of a batch a fifth of it."""
    took = {"step": [1.0] * 3, "evaluation": [0.2] * 3}
    entry = {"network": networks.identity(base), "timed_batch": 16, "seconds": took}
    setting = {"device": device, "threads": 1, "rounds": 2}
    provenance = PROVENANCE | {"gpu": None if device == "cpu" else "a GPU"}
    found = {"run_id": f"networks-{device}", "setting": setting, "networks": [entry]}
    return found | {"provenance": provenance}


def test_a_campaigns_seconds_are_its_steps_and_evaluations():
    base = base_run(validation_size=5000, epochs=10, eval_every=5)
    tuning = (1000, 1001)
    plain = Cell(base, BASE, (0.0,), tuning, (0, 1, 2))
    # 45,000 images in batches of 100, ten times, and 15,000 images evaluated twice
    steps, evaluation = 450 * 10, 2 * 150 * 0.2
    record = epochs_timed(base)
    assert campaign_cost.estimated([plain], record, 1.9).total == pytest.approx(
        3 * (steps + evaluation)
    )
    # two seeds at two radii, as known, and at two neighbours; five compared
    swept = Cell(base, ALL, (0.1, 0.2), tuning, tuple(range(5)))
    perturbed = 1.9 * steps + evaluation
    found = campaign_cost.estimated([plain, swept], record, 1.9)
    assert found.total == pytest.approx(3 * (steps + evaluation) + (4 * 2 + 5) * perturbed)
    assert found.longest == pytest.approx(perturbed)
    assert found.on(2) == pytest.approx(found.total / 2)
    assert found.on(1000) == found.longest
    late = Cell(base, ON.but(start=8), (0.1,), tuning, (0,))
    expected = steps * (1 + 0.2 * 0.9) + evaluation
    assert campaign_cost.estimated([late], record, 1.9).total == pytest.approx(expected)
    early = Cell(base, ON.but(end=3), (0.1,), tuning, (0,))
    expected = steps * (1 + 0.3 * 0.9) + evaluation
    assert campaign_cost.estimated([early], record, 1.9).total == pytest.approx(expected)
    single = Cell(base, ON.but(member="msam"), (0.1,), tuning, (0,))
    expected = steps + evaluation
    assert campaign_cost.estimated([single], record, 1.9).total == pytest.approx(expected)
    other = Cell(base_run(precision="bf16"), BASE, (0.0,), tuning, (0,))
    assert campaign_cost.estimated([other], record, 1.9) is None, "a network that was not timed"


def test_a_shared_search_is_counted_once():
    tuning, base = (1000, 1001), base_run(validation_size=5000)
    plain = Cell(base, ON, (0.1, 0.2), tuning, (0, 1))
    control = Cell(base, ON.but(updated="no_norm"), (0.1, 0.2), tuning, (0, 1), like=plain)
    alone, both = (sum(campaign_cost.counted(c).values()) for c in ([plain], [plain, control]))
    assert (alone, both) == (4 * 2 + 2, 4 * 2 + 2 + 2)


def test_where_there_is_no_official_test_set_the_rest_is_evaluated():
    config = RunConfig(train_size=500, validation_size=297)
    assert campaign_cost.images(config) == (500, 297 + 1000)
    assert campaign_cost.images(base_run(validation_size=5000)) == (45_000, 15_000)


def test_hardware_that_was_not_timed_is_not_estimated(rewritten):
    found = rewritten()
    bases = networks.networks()
    quick = {base.model for base in bases if base.dataset == "digits"}
    record = epochs_timed(bases[0])
    record["networks"] = [epochs_timed(b)["networks"][0] for b in bases if b.model in quick]
    store.write(found.folder.parent / "bench", record)
    table = campaign_cost.table(found).droplevel(1, axis=1).set_index(["profile", "device"])
    where = timing.hardware(record)
    assert table.loc["quick", where]["device-hours"] > 0
    assert math.isnan(table.loc["quick", "GPU"]["device-hours"])
    assert math.isnan(table.loc["paper", where]["device-hours"])
    runs = count_runs(all_cells(plan.chapter_needs(profiles.get("quick"))), {})
    assert table.loc["quick", where]["runs, about"] == runs
    said = campaign_cost.finding(found)
    assert "a perturbed step counts 2.00 times" in said
    took = sum(map(store.seconds, found.records.values()))
    assert f"the records of these runs add up to {span(took)}" in said
