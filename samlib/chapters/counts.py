"""How many parameters are in normalization layers? Counted, so that no run is needed."""

import functools

import pandas as pd
import torch

from samlib import models
from samlib.data.info import INFO
from samlib.report import tidy
from samlib.report.answers import HOLDS, PARTLY, REFUTED, Answer
from samlib.report.names import MODEL_NAMES
from samlib.report.results import Results
from samlib.report.text import listed
from samlib.sam.masks.base import Mask
from samlib.sam.masks.whole import only_norm

PAPERS = ("resnet56", "resnext29_32x4d", "wrn28_10", "vit_t", "vit_s")


@functools.cache
def norm_mask(name: str) -> Mask:
    """The only-norm mask of a model of the zoo for 100 classes; nothing is computed with it."""
    with torch.device("meta"):  # shapes are enough
        return only_norm(models.build(name, num_classes=INFO["cifar100"].classes))


def norm_share() -> pd.DataFrame:
    """Norm-layer parameters of every model of the zoo (claim 12); counted, not trained."""
    rows = []
    for name in models.names():
        mask = norm_mask(name)
        rows.append(
            {
                "model": MODEL_NAMES[name],
                "parameters": mask.total,
                "in norm layers": mask.count,
                "share": {"percent": 100 * mask.share},
            }
        )
    return tidy.table(rows)


def share(results: Results) -> Answer:
    """Share of norm parameters in the paper's networks (claim 12), a count."""
    shares = sorted(100 * norm_mask(name).share for name in PAPERS)
    # "about 0.1 %" read as within a factor of two for every network the paper uses.
    near = sum(0.05 <= share <= 0.2 for share in shares)
    ours = (
        f"{listed([f'{share:.3f}' for share in shares])} % in the paper's five networks, {near} of "
        "them within a factor of two"
    )
    word = HOLDS if near == len(shares) else PARTLY if near else REFUTED
    return Answer(word, ours, where="by count")


TABLES = {"norm_share": lambda results: norm_share()}
DECIDES = {"12": share}
