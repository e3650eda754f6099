"""Records of whole profiles in memory, with effects that are known because they were planted."""

import functools
import math

import numpy as np
from made_up import made_up, measured

from samlib.measures.measurement import MEASURES
from samlib.report.counting import whole_tensors
from samlib.report.results import Results
from samlib.study import plan
from samlib.study.cells import all_cells, missing_measurements, missing_runs
from samlib.study.methods import ALL, ON

SHARED, OWN = 1.0, 0.4  # standard deviations: of a seed for every method, of a run


def rng_of(*words):
    return np.random.default_rng([ord(c) for word in words for c in str(word)])


@functools.cache
def norm_names(base):
    return whole_tensors(base, ON)


@functools.cache
def all_names(base):
    return whole_tensors(base, ALL)


def best_rho(run):
    """Where a method does best: SAM at 0.2, every mask as the law says for a norm share of 4 %."""
    if run.mask == "only_norm":
        return 1.0
    if run.mask in ("random", "fisher", "dynamic"):
        return 4.0 if run.radius_over == "mask" else 80.0
    return 0.2


def gain_of(gains, run):
    """The planted gain of a run's method over the base optimizer, by mask."""
    if run.geometry == "none":
        return 0.0
    return gains.get((run.geometry, run.mask), gains.get(run.mask, 2.0))


def plant(run, gains, base=40.0):
    """A record whose accuracies are the planted ones, a parabola in log rho, and noise."""
    record = made_up(run)
    clean = gain_of(gains, run)
    if run.geometry != "none":
        clean -= 0.2 * math.log2(run.rho / best_rho(run)) ** 2
    seed = rng_of("seed", run.seed).normal(0, SHARED)
    own = rng_of(run.run_id)
    test, validation = base + clean + seed + own.normal(0, OWN, 2)
    share = 0.04 if run.geometry in ("l2", "layerwise_l2", "fisher") else 0.9
    curves = {
        "train_accuracy": [95.0] * 3,
        "validation_accuracy": [None, validation + 0.2, validation],
        "test_accuracy": [None, test + 0.1, test],
        "norm_share": [share] * 3 if run.geometry != "none" else [None] * 3,
        "gradient_share": [share] * 3 if run.geometry != "none" else [None] * 3,
    }
    on_norm = norm_names(run.replace(seed=0))
    names = all_names(run.replace(seed=0)) if run.mask == "all" and run.geometry != "none" else []
    shares = {
        name: share / len(on_norm) if name in on_norm else (1 - share) / (len(names) - len(on_norm))
        for name in names
    }
    return record | {
        "test_accuracy": test,
        "best_test_accuracy": test + 0.1,
        "validation_accuracy": validation,
        "curves": record["curves"] | curves,
        "measures": record["measures"] | {"tensor_shares": shares},
        "mask": {"count": 1920, "total": 1_251_300} if run.geometry != "none" else None,
        "checksum": "",
    }


def planted(profile, gains, folder, only=()):
    """Results of a profile, or of some chapters' runs, with planted gains by mask."""
    needs = [n for name in only for n in plan.chapter_needs(profile, name)]
    needs = needs or plan.chapter_needs(profile)
    runs, measures = {}, {name: {} for name in MEASURES}
    for need in needs:
        while todo := missing_runs(all_cells([need]), runs):
            runs |= {run.run_id: plant(run, gains) for run in todo}
    for need in needs:
        for job in missing_measurements(need.measured, runs, measures):
            found = measured(job, *(runs[run.run_id] for run in job.runs))
            measures[job.measure][found["run_id"]] = found
    return Results(profile, runs, measures, folder)
