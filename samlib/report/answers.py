"""What the records say of a claim: one comparison, or all of several."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from samlib.report.stats import NOT_RUN, Comparison, corrected


@dataclass(frozen=True)
class Answer:
    """What the records say of a claim: the number that decides, and the verdict."""

    ours: str
    verdict: str
    seeds: int = 0


NOT_ANSWERED = Answer("–", NOT_RUN.verdict)


def single(comparison: Comparison) -> Answer:
    """The verdict of one comparison."""
    return Answer(str(comparison), comparison.verdict, comparison.seeds)


def weakest(verdicts: Iterable[str]) -> str:
    """What several verdicts come to together.

    >>> weakest(["holds", "undecided", "refuted"]), weakest(["holds", "equivalent"])
    ('refuted', 'holds')
    """
    found = set(verdicts)
    return next((v for v in ("refuted", "undecided") if v in found), "holds")


def all_of(comparisons: Sequence[Comparison], what: str, *, strict: bool) -> Answer:
    """A claim about every one of several comparisons, each after Holm's correction.

    Refuted if one is refuted or, where the claim is strict ("larger", not "at least as good"),
    equivalent; holds if each holds, or is equivalent where that is enough; else undecided. Not run
    if there is nothing to compare.
    """
    if not comparisons:
        return NOT_ANSWERED
    together = corrected(comparisons)
    counts = pd.Series([c.verdict for c in together]).value_counts()
    summary = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    against, enough = ["refuted"], ["holds"]
    (against if strict else enough).append("equivalent")
    if any(c.verdict in against for c in together):
        verdict = "refuted"
    elif all(c.verdict in enough for c in together):
        verdict = "holds"
    else:
        verdict = "undecided"
    fewest = min(c.seeds for c in comparisons)
    return Answer(f"{len(comparisons)} {what}: {summary}", verdict, fewest)
