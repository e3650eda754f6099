"""A campaign of the smoke profile made up: every record whole, no number from a run."""

import atexit
import copy
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from samlib.bench import timing
from samlib.measures import measurement, robustness, sharpness
from samlib.records import store
from samlib.records.results_folder import committed
from samlib.study import plan, profiles
from samlib.study.cells import all_cells, missing_measurements, missing_runs
from samlib.trainer.diagnostics import QUANTILES

PROFILE = profiles.get("smoke")
PROVENANCE = {
    "python": "3.11",
    "packages": {"torch": "2.11.0"},
    "processor": "made up",
    "gpu": None,
    "commit": None,
    "dirty": None,
}


def numbers_of(name):
    """A generator that depends on the name alone."""
    return np.random.default_rng([ord(c) for c in name])


def affine(layer, rng):
    """gamma and beta of one norm layer, as `measures.affine_measures` gives them."""
    gamma = np.sort(rng.uniform(0.5, 1.5, size=len(QUANTILES)))
    beta = np.sort(rng.uniform(-0.2, 0.2, size=len(QUANTILES)))
    return {
        "layer": layer,
        "gamma": gamma.tolist(),
        "gamma_abs_mean": float(gamma.mean()),
        "beta": beta.tolist(),
    }


WEIGHTS = ("conv1", "layer1.0.conv1", "fc")
LAYERS = ("conv1", "norm1", "layer1.0.norm1", "layer1.0.conv1", "fc")


def connected(run, rng):
    """Accuracies of a run and its twin, and losses between them."""
    names = ("twin", "own_with_twin_norms", "twin_with_own_norms")
    accuracy = {"own": run["test_accuracy"]} | {n: rng.uniform(70, 90) for n in names}
    own, twin = rng.uniform(0.2, 1.2, size=2)
    layers = [
        {
            "layer": layer,
            "own": [own, *rng.uniform(0.2, 1.2, size=2)],
            "twin": [*rng.uniform(0.2, 1.2, size=2), twin],
        }
        for layer in LAYERS
    ]
    whole = [own, rng.uniform(1, 2), twin]
    return {"accuracy": accuracy, "images": 64, "whole": whole, "layers": layers}


def curved(rng):
    """Traces and eigenvalues of a Hessian, and of its blocks."""
    blocks = ("all", "only_norm", "no_norm")
    return {
        "images": 64,
        "probes": 2,
        "eigenvalue": {block: rng.uniform(1, 50) for block in blocks[:2]},
        "trace": {block: rng.uniform(100, 500) for block in blocks},
        "trace_error": {block: rng.uniform(1, 5) for block in blocks},
        "layers": [
            {
                "layer": layer,
                "weight_squared": rng.uniform(5, 100),
                "trace": rng.uniform(10, 100),
                "trace_error": 1.0,
            }
            for layer in WEIGHTS
        ],
    }


def measured(job, *runs):
    """The record of a measurement of a made-up run, or of a run and its twin."""
    run = runs[0]
    rng = numbers_of(job.name)
    if job.measure == "sharpness":
        settings = [
            setting.to_dict() | {"value": rng.uniform(0.01, 0.1)}
            for setting in (*sharpness.SETTINGS, sharpness.TRUE_LABELS)
        ]
        values = {"m": 64, "images": 64, "settings": settings, "eigenvalue": rng.uniform(5, 50)}
    elif job.measure == "connectivity":
        values = connected(run, rng)
    elif job.measure == "curvature":
        values = curved(rng)
    elif job.measure == "self_training":
        values = {
            "clean": run["test_accuracy"],
            "angles": [30, 60],
            "before": sorted(rng.uniform(20, 60, size=2), reverse=True),
            "after": sorted(rng.uniform(60, 80, size=2), reverse=True),
        }
    else:
        short = job.measure == "robustness_in_short"
        values = {
            "clean": run["test_accuracy"],
            "corruptions": {"gaussian_noise": sorted(rng.uniform(20, 90, size=5), reverse=True)},
            "corrupted": rng.uniform(40, 70),
            "attacked": 500,
            "attacked_clean": run["test_accuracy"],
            "attacks": [
                attack._asdict() | {"accuracy": rng.uniform(20, 80)}
                for attack in (robustness.DUALITY if short else robustness.ATTACKS)
            ],
        }
    return {
        "run_id": run["run_id"],
        "measure": job.measure,
        **dict(zip(("of", "twin"), (r["checksum"] for r in runs), strict=False)),
        "config": run["config"],
        "values": values,
        "times": {"wall": 1.0},
        "provenance": PROVENANCE,
    }


def made_up(run):
    """A record with numbers that differ from run to run and depend on nothing else."""
    rng = numbers_of(run.run_id)
    test, validation = rng.uniform(80, 95, size=2)
    perturbed = run.geometry != "none"
    share = rng.uniform() if perturbed else None
    return {
        "run_id": run.run_id,
        "config": run.to_dict(),
        "status": "completed",
        "diverged_epoch": None,
        "test_accuracy": test,
        "best_test_accuracy": test + 0.5,
        "validation_accuracy": validation,
        "curves": {
            "train_loss": [1.0],
            "train_accuracy": [60.0],
            "validation_accuracy": [validation],
            "test_accuracy": [test],
            "norm_share": [share],
            "gradient_share": [share],
            "weight_norm": [10.0],
        },
        "mask": {"count": 480, "total": 77_562} if perturbed else None,
        "measures": {
            "gamma_abs_mean": 1.0,
            "beta_abs_mean": 0.1,
            "affine": [affine(layer, rng) for layer in ("norm1", "layer1.0.norm1")],
            "tensor_shares": {},
            "recalibrated_test_accuracy": test - 0.5,
        },
        "times": {"wall": 2.0, "epochs": [1.0 + perturbed]},
        "provenance": PROVENANCE,
    }


def with_accuracies(results, rule):
    """Results in which every run has the test accuracy a rule says, and a little more by seed."""
    found = {
        run_id: r | {"test_accuracy": rule(r["config"]) + 0.01 * (r["config"]["seed"] % 1000)}
        for run_id, r in results.records.items()
    }
    return dataclasses.replace(results, records=found)


def rewritten(results, change):
    """Results in which a function has changed every record."""
    found = {run_id: change(record) for run_id, record in results.records.items()}
    return dataclasses.replace(results, records=found)


def with_measures(results, measure, change):
    """Results in which `change(config, values)` has been applied to copies of measurements."""
    found = copy.deepcopy(results.measures[measure])
    for record in found.values():
        change(record["config"], record["values"])
    return dataclasses.replace(results, measures=results.measures | {measure: found})


# Step times in units of the base optimizer's, and their floors.
RATIOS = {"base": 1.0, "base again": 1.01, "all": 2.0, "only_norm": 1.75, "blocks_1": 1.7}
RATIOS |= {"blocks_2": 1.5, "blocks_3": 1.25, "blocks_23": 1.5}
FLOORS = {name: ratio - 0.05 for name, ratio in RATIOS.items() if name != "base again"}


def steps_timed(results, ratios=RATIOS, **changes):
    """A record of the step times of the headline network; a step of SGD takes 10 ms."""
    around = {name: [ratio - 0.01, ratio, ratio + 0.01] for name, ratio in ratios.items()}
    pieces = {"forward": 0.003, "forward and backward": 0.009, "optimizer": 0.0005}
    for mask in set(FLOORS) - {"base"}:
        pieces |= {f"gradient of {mask}": 0.007, f"perturb {mask}": 0.0004}
        if mask in ("blocks_2", "blocks_3", "blocks_23"):
            pieces[f"reused by {mask}"] = 0.001
    floors = FLOORS | {name: FLOORS["base"] for name in ratios if " on " in name}  # of one pass
    record = {
        "run_id": "step-made-up",
        "setting": {"device": "cpu", "threads": 1, "rounds": 20},
        "network": timing.network(PROFILE.bases[PROFILE.headline]),
        "ratios": around,
        "floors": {name: [floor - 0.01, floor, floor + 0.01] for name, floor in floors.items()},
        "seconds": {name: [0.01 * value for value in found] for name, found in around.items()},
        "pieces": {name: [value] * 3 for name, value in pieces.items()},
        "memory": {
            "parameters": 4_000_000,
            "peak": {"base": 20_000_000, "all": 24_010_000, "only_norm": 20_020_000}
            | {"blocks_23": 20_015_000},
            "between": {"all": 4_010_000, "only_norm": 20_000, "blocks_23": 15_000},
        },
        "provenance": PROVENANCE,
    }
    return store.write(results / "bench", record | changes)


def made_up_results(results):
    """Records and measurements of the whole smoke profile in a folder; returns the folder."""
    shutil.copytree(_written_once(), results, dirs_exist_ok=True)
    return results


@functools.cache
def _written_once():
    """What `made_up_results` copies: written by the first test of a process that asks for it."""
    results = Path(tempfile.mkdtemp(prefix="samlib-made-up-"))
    atexit.register(shutil.rmtree, results, ignore_errors=True)
    with mock.patch("os.fsync"):
        _write(results)
    return results


def _write(results):
    steps_timed(results)
    folder = committed(results, PROFILE.name)
    for needs in plan.chapter_needs(PROFILE):
        while todo := missing_runs(all_cells([needs]), store.read(folder.runs)):
            for run in todo:
                store.write(folder.runs, made_up(run))
    runs = store.read(folder.runs)
    for needs in plan.chapter_needs(PROFILE):
        for job in missing_measurements(needs.measured, runs, measurement.read(folder, runs)):
            found = measured(job, *(runs[run.run_id] for run in job.runs))
            store.write(folder.measures(job.measure), found)
