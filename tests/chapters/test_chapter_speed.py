"""The page on speed, on made-up timings whose numbers are known."""

import math
from dataclasses import replace

import pytest
from made_up import FLOORS, PROFILE, PROVENANCE, RATIOS, steps_timed

from samlib.bench import augment, epoch, timing
from samlib.bench.packing import packed
from samlib.chapters import speed
from samlib.records import store
from samlib.report import formats

NETWORK = timing.network(PROFILE.bases[PROFILE.headline])
AROUND = {"setting": {"device": "cpu", "threads": 1}, "provenance": PROVENANCE}


@pytest.fixture
def empty(smoke, tmp_path):
    """The same runs in a folder where nothing was timed."""
    return replace(smoke, folder=tmp_path / PROFILE.name)


def written(results, run_id, **record):
    store.write(results.folder.parent / "bench", {"run_id": run_id, **AROUND, **record})


def test_what_was_not_timed_is_not_run(empty):
    for make in speed.TABLES.values():
        assert make(empty).empty
    there = f"--results {empty.folder.parent}"
    assert f"`python -m samlib bench step {there}`" in speed.ideas_finding(empty)
    assert f"`python -m samlib bench epoch {there}`" in speed.epochs_finding(empty)
    assert f"`python -m samlib bench growth {there}`" in speed.growth_finding(empty)
    assert speed.timed_on(empty) == []


def test_ideas_are_predicted_from_pieces_alone(empty):
    steps_timed(empty.folder.parent)
    table = speed.ideas(empty).set_index("what a step computes")
    # In ms: gradients 9, optimizer 0.5, to any mask 7, kept 1; a step of SGD takes 10.
    assert table["predicted"].tolist() == pytest.approx([1.65, 1.65, 1.65, 1.65, 1.55])
    measured = table["measured"]["median"].tolist()
    expected = [math.nan, *(RATIOS[m] for m in ("all", "only_norm")), math.nan, RATIOS["blocks_23"]]
    assert measured == pytest.approx(expected, nan_ok=True)
    over = RATIOS["only_norm"] / FLOORS["only_norm"]
    assert f"SAM-ON's step takes {over:.2f} times" in speed.ideas_finding(empty)


def test_a_replayed_step_stands_beside_the_same_step_launched_from_python(empty):
    steps_timed(empty.folder.parent)
    assert speed.replays(empty).empty
    assert "that needs a GPU, and `python -m samlib bench gpu" in speed.replays_finding(empty)
    launched = {"base": [0.02] * 3, "all": [0.04] * 3, "only_norm": [0.035] * 3}
    share = {name: [0.3] * 3 for name in launched}
    steps_timed(empty.folder.parent, plain_seconds=launched, utilisation=share)
    table = speed.replays(empty)
    assert table["replayed, ms"].tolist() == pytest.approx([10, 20, 17.5])
    assert table["from Python, ms"].tolist() == pytest.approx([20, 40, 35])
    assert table["from Python / replayed"].tolist() == pytest.approx([2, 2, 2])
    assert table["share of the matrix rate", "percent"].tolist() == pytest.approx([30] * 3)
    assert "a step of SAM-ON takes 2.00 (" in speed.replays_finding(empty)


def test_epochs_stand_beside_the_plain_loop_and_the_limit(empty):
    took = {name: [2.0, 2.0, 2.0] for name in ("ours", "ours again")} | {
        "plain loop": [3.0, 4.0, 5.0],
        "augmentation": [0.1, 0.1, 0.1],
        "steps": [1.5, 1.5, 1.5],
    }
    found = epoch.summary(took, images=100, batch_size=25, operations=10**9, rate=4e9)
    written(empty, "epoch-made-up", network=NETWORK | {"augment": "basic"}, images=100, **found)
    (row,) = speed.epochs(empty).to_dict("records")
    assert [row["plain loop / ours", of] for of in ("lower", "median", "upper")] == [1.75, 2, 2.25]
    assert row["ours, images/s", ""] == 50
    assert row["augmentation", "percent"] == pytest.approx(5)
    assert row["share of the matrix rate", "percent"] == pytest.approx(50)
    assert "The plain loop takes 2.00 (" in speed.epochs_finding(empty)
    assert "No GPU was timed" in speed.epochs_finding(empty)


def test_nothing_is_said_of_a_cpu_where_a_gpu_was_timed(empty):
    took = {name: [1.0] * 3 for name in (*epoch.CONTENDERS, "augmentation", "steps")}
    found = epoch.summary(took, images=100, batch_size=25, operations=10**9, rate=4e9)
    gpu = PROVENANCE | {"gpu": "NVIDIA X"}
    network = NETWORK | {"augment": "basic"}
    written(empty, "epoch-gpu", network=network, images=100, **found | {"provenance": gpu})
    assert "on NVIDIA X" in speed.epochs(empty)["timed"][0]
    assert "No GPU" not in speed.epochs_finding(empty)


def test_augmentation_has_a_row_per_kind(empty):
    took = {}
    for name, ours in (("basic", 1.0), ("autoaugment", 2.0)):
        took |= {name: [ours] * 3, f"{name} again": [ours] * 3}
        took |= {f"{name} by Pillow": [8.0] * 3, f"epoch with {name}": [20.0] * 3}
    written(empty, "augment-made-up", network=NETWORK, images=400, **augment.summary(took, 400))
    table = speed.augmentation(empty)
    assert table["Pillow / ours"].to_numpy().tolist() == [[8.0] * 3, [4.0] * 3]
    assert table["ours, images/s"].tolist() == [400, 200]
    assert table["share of an epoch"]["percent"].tolist() == pytest.approx([5, 10])


def test_packing_has_a_row_per_number_of_workers(empty):
    seconds = {"epochs": 1.0, "set-up and evaluation": 0.25, "around the run": 0.01}
    entries = [
        packed(workers, 4 * workers, [took] * 3, [1440.0] * 3) | {"seconds": seconds}
        for workers, took in ((1, 10.0), (2, 16.0))
    ]
    written(empty, "packing-made-up", network=NETWORK, packed=entries)
    table = speed.packing(empty)
    assert table["runs per hour"].to_numpy().tolist() == [[1440.0] * 3, [1800.0] * 3]
    assert table["over one worker"].to_numpy().tolist() == [[1.0] * 3, [1.25] * 3]
    assert table["around the run, ms"].tolist() == pytest.approx([10, 10])


def test_growth_tells_overhead_and_reading(empty):
    seconds = {"epochs": 1.0, "set-up and evaluation": 0.5, "around the run": 0.02}
    campaign = {"executor": "ray", "workers": 2, "runs": 9, "start": 3.0, "runs_per_hour": 3600.0}
    size = {"records": 100_000, "bytes_per_record": 2048, "seconds": 9.0, "memory": 2**20}
    size |= {"table_rows": 7, "table_seconds": 1.5}
    few = size | {"records": 10, "memory": None}
    campaigns = [campaign | {"seconds": seconds}]
    written(empty, "growth-cpu", campaigns=campaigns, reading=[few, size])
    assert speed.growth(empty)["executor"].tolist() == ["nodes of a Ray cluster"]
    assert formats.as_text(speed.reading(empty))["memory, MB"].tolist() == ["–", "1"]
    text = speed.growth_finding(empty)
    assert "spends 20 ms" in text
    assert "100,000 records are read in 9.0 s" in text
