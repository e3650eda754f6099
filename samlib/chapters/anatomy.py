"""What was measured inside the final weights, by method, seed and layer."""

import math
from collections.abc import Iterator
from statistics import fmean
from typing import NamedTuple

import numpy as np
import pandas as pd

from samlib.chapters import sharpness, shift
from samlib.errors import RecordsMissing
from samlib.measures.connectivity import barrier
from samlib.measures.curvature import index
from samlib.models import is_vit
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import Comparison, compare
from samlib.study.methods import HEADLINE, Method

FACTOR = sharpness.MARGIN  # of curvature, too


def swapped(results: Results, method: Method) -> pd.DataFrame:
    """Test accuracies of a network and its twin, as they are and with norm layers exchanged.

    A row per seed; columns are `own`, `twin`, `own_with_twin_norms` and `twin_with_own_norms`.
    """
    found = _measured(results, method, "connectivity")
    return pd.DataFrame({seed: of["accuracy"] for seed, of in found.items()}).T


def gains(results: Results, method: Method) -> pd.DataFrame:
    """Points over the twin by seed, of every network in `swapped`; `own` is the whole gain."""
    table = swapped(results, method)
    return table.sub(table["twin"], axis=0).drop(columns="twin")


def barriers(results: Results, method: Method) -> pd.DataFrame:
    """Barriers in nats: a row per seed, layer (`whole`: all at once) and network the `rest` is of.

    The rest is the method's `own` or its `twin`'s; of the whole there is none, and its is `own`.
    """
    rows = [
        {"seed": seed, "layer": layer, "rest": rest, "barrier": barrier(losses)}
        for seed, of in _measured(results, method, "connectivity").items()
        for layer, rest, losses in _paths(of)
    ]
    return pd.DataFrame(rows)


def _paths(found: dict) -> list[tuple[str, str, list]]:
    every = [(of["layer"], rest, of[rest]) for of in found["layers"] for rest in ("own", "twin")]
    return [("whole", "own", found["whole"]), *every]


def highest(results: Results, method: Method) -> pd.Series:
    """The highest barrier of a single layer, by seed; without seeds for which one is not finite."""
    found = barriers(results, method)
    layers = found[found["layer"] != "whole"].groupby("seed")["barrier"]
    return layers.max().where(layers.count() == layers.size()).dropna()


def curvature(results: Results, method: Method, quantity: str, block: str) -> pd.Series:
    """`trace` or `eigenvalue` of a block of the Hessian, by seed; NaN where it is not finite."""
    found = _measured(results, method, "curvature")
    values = {seed: (of[quantity] or {}).get(block) for seed, of in found.items()}
    return pd.Series(values, dtype=float)


def by_layer(results: Results, method: Method, quantity: str) -> pd.DataFrame:
    """`weight_squared`, `trace` or `index` of every weight: a row per seed, a column per layer."""
    found = _measured(results, method, "curvature")
    rows = {
        seed: {layer["layer"]: _of(layer, quantity) for layer in of["layers"]}
        for seed, of in found.items()
    }
    return pd.DataFrame(rows).T


def _of(layer: dict, quantity: str) -> float:
    return index(layer) if quantity == "index" else layer[quantity]


def log_ratio(on: pd.Series, other: pd.Series) -> Comparison:
    """log10 of a ratio by seed; seeds where either is not a positive number are left out."""
    both = pd.DataFrame({"on": on, "other": other}).where(lambda table: table > 0).dropna()
    return compare(np.log10(both["on"] / both["other"]), margin=FACTOR)


SUMS = ("weight_squared", "trace", "index")


def robust_and_sums(results: Results) -> pd.DataFrame:
    """Robust accuracy of every measured run, and each sum over its layers, by seed."""
    tables = []
    for method in HEADLINE:
        attacked = _measured(results, method, "robustness")
        robust = {s: fmean(a["accuracy"] for a in of["attacks"]) for s, of in attacked.items()}
        sums = {name: by_layer(results, method, name).sum(axis=1, skipna=False) for name in SUMS}
        tables.append(pd.DataFrame({"robust": pd.Series(robust, dtype=float)} | sums))
    return pd.concat(tables).dropna()


def ranks(table: pd.DataFrame) -> dict[str, float]:
    """Spearman's rank correlation of robust accuracy with each sum; NaN where one is constant."""
    if len(table) < 3:
        return dict.fromkeys(SUMS, math.nan)
    ranked = table.rank()
    return {name: float(ranked["robust"].corr(ranked[name])) for name in SUMS}


def lead_of_the_index(table: pd.DataFrame) -> tuple[float, float, float]:
    """How much better the index ranks than the better of its factors, with a 95 % interval.

    The interval is from 1,000 bootstrap samples of seeds, of which each brings all its methods.
    """

    def lead(found: dict[str, float]) -> float:
        return abs(found["index"]) - max(abs(found["weight_squared"]), abs(found["trace"]))

    rows, draw = [*table.groupby(table.index).indices.values()], np.random.default_rng(0)
    if len(rows) < 2:
        return lead(ranks(table)), math.nan, math.nan
    leads = []
    for _ in range(1000):
        drawn = np.concatenate([rows[i] for i in draw.integers(len(rows), size=len(rows))])
        leads.append(lead(ranks(table.iloc[drawn])))
    known = [value for value in leads if math.isfinite(value)] or [math.nan]
    low, high = np.quantile(known, [0.025, 0.975])
    return lead(ranks(table)), float(low), float(high)


def turned(results: Results, method: Method, when: str) -> pd.DataFrame:
    """Accuracy `before` or `after` self-training by seed (rows) and angle (columns; 0: clean)."""
    found = _measured(results, method, "self_training")
    rows = {
        seed: {0: of["clean"]} | dict(zip(of["angles"], of[when], strict=True))
        for seed, of in found.items()
    }
    return pd.DataFrame(rows).T


class NormLayers(NamedTuple):
    """Norm layers of a problem's network whose scale no later normalization undoes, or one does."""

    problem: str
    free: bool
    layers: list[str]


def norm_layers(results: Results) -> Iterator[NormLayers]:
    """Those of the headline network and of the transformers, where their runs are there.

    In a transformer every LayerNorm feeds a linear layer and then the residual stream: all are
    free. In a pre-activation network the last one is, before the classifier; elsewhere none is.
    """
    for problem in dict.fromkeys((results.profile.headline, *results.profile.transformers)):
        try:
            names = shift.layers(results, problem)
            for method in HEADLINE:
                results.runs(results.cell(method, problem))
        except RecordsMissing:
            continue
        model = results.profile.bases[problem].model
        last = [name for name in names if model.startswith("wrn") and "." not in name]
        free = names if is_vit(model) else last
        for kind, layers in ((True, free), (False, [name for name in names if name not in free])):
            if layers:
                yield NormLayers(problem, kind, layers)


def gamma(results: Results, method: Method, of: NormLayers) -> pd.Series:
    """Mean |gamma| over the layers, by seed."""
    found = [shift.gammas(results, method, layer, of.problem) for layer in of.layers]
    return pd.concat(found, axis=1).mean(axis=1, skipna=False)


def gamma_over(results: Results, pair: tuple[Method, Method], of: NormLayers) -> Comparison:
    """The first method's mean |gamma| minus the second's."""
    better, worse = (gamma(results, method, of) for method in pair)
    return compare((better - worse).dropna(), shift.MARGIN)


def _measured(results: Results, method: Method, measure: str) -> dict[int, dict]:
    found = results.measured(results.cell(method), measure)
    if not found:
        name = method_name(results.profile, method)
        raise RecordsMissing(f"every measured run of {name} diverged, which leaves no {measure}")
    return found
