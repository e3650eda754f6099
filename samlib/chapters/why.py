"""Why would it work? Competing explanations, and whether what each predicts is seen."""

import math
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samlib.chapters import family
from samlib.chapters.explanations import EXPLANATIONS, Explanation, Found, fits
from samlib.report import tidy
from samlib.report.answers import DESCRIBED
from samlib.report.figures import COLOURS, MARKERS, key_of, legend, use_style
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import NOT_RUN, OPEN, corrected
from samlib.report.text import listed
from samlib.report.wording import lines
from samlib.study import members
from samlib.study.methods import HEADLINE

MET, NOT_MET = "met", "not met"


def outcome(e: Explanation, found: Found) -> str:
    """Whether a prediction is met: "open" and "not run" say that it is not known."""
    if found is None or found[0].seen == NOT_RUN:
        return NOT_RUN
    if found[0].seen == OPEN:
        return OPEN
    return MET if found[0].seen in e.met_by else NOT_MET


def table(results: Results) -> pd.DataFrame:
    """Every explanation: prediction, what was seen, outcome."""
    return predictions(results, EXPLANATIONS, command(results))


def predictions(
    results: Results, explanations: Sequence[Explanation], command: str
) -> pd.DataFrame:
    """One row per explanation; the command runs those that are not run."""
    rows = []
    for e, found in looked(results, explanations):
        rows.append(
            {
                "explanation": e.name,
                "prediction": e.prediction,
                "we see": found[1] if found else f"not run: {command}",
                "difference": _interval(found),
                "unit": e.unit if found else None,
                "prediction is": outcome(e, found),
            }
        )
    return tidy.table(rows)


def looked(
    results: Results, explanations: Sequence[Explanation]
) -> list[tuple[Explanation, Found]]:
    """What is seen of every explanation, after Holm's correction over all of them."""
    found = [e.look(results) for e in explanations]
    judged = iter(corrected([of[0] for of in found if of]))
    seen = [of and (next(judged), of[1]) for of in found]
    return list(zip(explanations, seen, strict=True))


def _interval(found: Found) -> dict | None:
    return None if found is None or math.isnan(found[0].low) else tidy.difference(found[0])


def command(results: Results) -> str:
    """What would run it, and its cost."""
    return (
        "add a line to `samlib/study/members.py` (about "
        f"{family.runs_of(results, members.CONTROLS[0])} runs), then run "
        f"`{results.to_run('why')}`"
    )


def figure(results: Results) -> Figure:
    """Test accuracy against training accuracy, a mark per method."""
    use_style()
    figure, ax = plt.subplots(figsize=(6.4, 3.8))
    rows = sorted(fits(results).itertuples(), key=lambda row: row.method in HEADLINE)  # on top
    for row in rows:
        large = {"ms": 11, "mec": "black"} if row.method in HEADLINE else {"ms": 5}
        ax.plot(row.train, row.test, MARKERS[row.key], color=COLOURS[row.key], **large)
    ax.set_xlabel("training accuracy at the end, % of the labels trained on")
    ax.set_ylabel("test accuracy, %")
    labels = {key_of(method): method_name(results.profile, method) for method in HEADLINE}
    legend(figure, labels, dashed=())
    return figure


def _count(outcomes: Iterable[str]) -> dict[str, int]:
    words = list(outcomes)
    return {word: words.count(word) for word in (MET, NOT_MET, OPEN, NOT_RUN)}


def told(results: Results, explanations: Sequence[Explanation]) -> str:
    """The outcome of every explanation's prediction, by name."""
    outcomes = {e.name: outcome(e, found) for e, found in looked(results, explanations)}
    parts = [
        f"{word}: {listed([n for n, o in outcomes.items() if o == word])}"
        for word, count in _count(outcomes.values()).items()
        if count
    ]
    return f"Of {len(outcomes)} predictions, {'; '.join(parts)}."


def opening(results: Results) -> dict[str, str]:
    """What is said, what is seen, and the verdict with what it is worth."""
    says = "Neither sparsity nor low sharpness explains SAM-ON; the authors leave the cause open."
    return lines(results.profile.where, says, told(results, EXPLANATIONS), DESCRIBED)


TABLES = {"why": table}
DECIDES: dict = {}
