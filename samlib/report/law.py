"""What `study.law` predicts for every mask, beside the rho that tuning chose.

The shares of ||T g||^2 are those of SAM's tuning runs at its chosen rho, of the same geometry. A
mask of whole tensors has the sum of its tensors' shares, a random one of k of d coordinates the
expected k / d. With the radius over all the step is shorter by the root of the share, so that the
law asks for rho / share instead of rho / sqrt(share). For p = inf there is no law: the length of
a step does not depend on the gradient. SSAM-F and SSAM-D choose their coordinates by the gradient,
whose share on them no run of SAM records.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from samlib.report.counting import whole_tensors
from samlib.report.results import Results
from samlib.sam.geometry import GEOMETRIES
from samlib.study import law
from samlib.study.methods import Method


class Prediction(NamedTuple):
    """A mask's share of ||T g||^2, and the rho that the law gives it."""

    share: float
    rho: float

    def octaves(self, rho: float) -> float:
        """By how many factors of two a rho is above the predicted one."""
        return math.log2(rho / self.rho)


def prediction(results: Results, method: Method) -> Prediction | None:
    """What the law says of a method in the headline problem; None if it says nothing.

    Raises:
        RecordsMissing: the runs of SAM that it is read from are not all there.
    """
    whole, headline = Method(method.geometry, "all"), results.profile.headline
    known = GEOMETRIES[method.geometry].p == 2 and results.profile.has(headline, whole)
    if method == whole or not known:
        return None
    everything = results.cell(whole)
    rho = results.rho(everything)
    share = _share(results, method, results.runs(everything, rho))
    if not share:
        return None
    over_all = method.radius_over == "all"
    return Prediction(share, rho / share if over_all else law.predicted(rho, share))


def _share(results: Results, method: Method, runs: Sequence[dict]) -> float | None:
    """Share of ||T g||^2 on a mask, from runs that perturb everything."""
    cell = results.cell(method)
    if method.mask == "random":
        found = results.runs(cell, cell.start[0])[0]["mask"]
        return found["count"] / found["total"]
    names = whole_tensors(cell.base, method)
    if names is None:
        return None
    shares = [r["measures"]["tensor_shares"] for r in runs]
    return fmean(sum(found[name] for name in names) for found in shares) if all(shares) else None
