"""A law under test: a mask's tuned rho is SAM's rho divided by the root of the mask's share.

If tuning equalises the first-order rise of the loss, rho ||T g|| on the mask, then

    rho_mask / rho_all = 1 / sqrt(share),    share = ||T g||^2 on the mask / ||T g||^2

with the shares of runs of the same geometry that perturb everything. The law was found in records
after they were seen, and the study tests whether the law predicts. The law needs p = 2: for p = inf
the length of a step does not depend on g.
"""

import math
from collections.abc import Iterable, Sequence

from samlib.records.store import Records
from samlib.trainer.config import RunConfig


def predicted(rho: float, share: float) -> float:
    """The rho the law predicts for a mask, to three significant digits.

    >>> predicted(0.1, 0.04)
    0.5
    """
    return float(f"{rho / math.sqrt(share):.3g}")


def norm_share(runs: Iterable[RunConfig], records: Records) -> float | None:
    """Mean share of ||T g||^2 on the norm layers over epochs and runs that perturb everything.

    None where a run has no record or a record has no shares.
    """
    found = [_finite(records, run) for run in runs]
    if not found or not all(found):
        return None
    means = [sum(shares) / len(shares) for shares in found]
    return sum(means) / len(means)


def _finite(records: Records, run: RunConfig) -> Sequence[float]:
    record = records.get(run.run_id) or {"curves": {}}
    return [s for s in record["curves"].get("gradient_share") or () if s is not None]


def counted_share(run: RunConfig, records: Records) -> float | None:
    """Share of the coordinates in a run's mask: the expected share of a random mask of that size.

    A coordinate drawn at random carries the mean share of ||g||^2, so that the expected share of k
    of d coordinates is k / d. None without a record.
    """
    mask = records.get(run.run_id, {}).get("mask")
    return mask and mask["count"] / mask["total"]
