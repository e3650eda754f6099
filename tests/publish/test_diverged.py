"""A method of which every compared run diverged stops no page: it is shown, or says why not."""

import copy
import dataclasses
import json

import matplotlib.pyplot as plt
import pytest
from made_up import PROFILE

from samlib.publish import notebooks, pages
from samlib.publish.pages import Page
from samlib.report import results as report_results
from samlib.study import plan

CASES = {
    "SGD": lambda config: config["geometry"] == "none",
    "SAM": lambda config: (config["geometry"], config["mask"]) == ("l2", "all"),
    "SAM-ON": lambda config: (config["geometry"], config["mask"]) == ("l2", "only_norm"),
    "variants": lambda config: config["geometry"] not in ("none", "l2"),
    "everything": lambda config: True,
}


def diverged_at_once(record):
    """A run's record as `train` leaves it when the first epoch ends in NaN."""
    record = copy.deepcopy(record)
    curves, measures = record["curves"], record["measures"]
    for name in curves:
        curves[name] = [10.0 if "accuracy" in name else None]
    measures |= {"gamma_abs_mean": None, "beta_abs_mean": None, "affine": [], "tensor_shares": {}}
    chance = dict.fromkeys(("test_accuracy", "best_test_accuracy", "validation_accuracy"), 10.0)
    return record | {"status": "diverged", "diverged_epoch": 0} | chance


@pytest.fixture(params=CASES)
def found(request, smoke, monkeypatch):
    """The smoke profile, of which the compared runs of a method diverged; notebooks read it."""
    records = dict(smoke.records)
    compared = {run: r for run, r in records.items() if r["config"]["seed"] not in PROFILE.tuning}
    lost = {run: r for run, r in compared.items() if CASES[request.param](r["config"])}
    assert lost, "a case that loses nothing tests nothing"
    records |= {run: diverged_at_once(record) for run, record in lost.items()}
    measures = {
        name: {i: r | {"values": None} if i in lost else r for i, r in taken.items()}
        for name, taken in smoke.measures.items()
    }
    found = dataclasses.replace(smoke, records=records, measures=measures)
    monkeypatch.setattr(report_results, "open_for_notebook", lambda *of: found)
    monkeypatch.setattr(pages, "read", lambda *of: found)
    return found


def test_every_page_is_made_or_says_why_not(found, smoke_folder):
    for name in (*plan.NEEDS, "verdicts"):
        reason = pages.absent(Page(name, "smoke", ""), smoke_folder)
        if reason is not None:
            assert reason.startswith("Nothing to show: every measured run"), name
            assert name in ("inside", "robustness"), "others show what is left"
            continue
        known = {"profile": "smoke", "results": "results", "missing": "error"}
        for cell in json.loads(notebooks.source(name).read_bytes())["cells"]:
            if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
                exec("".join(cell["source"]), known)
        plt.close("all")
