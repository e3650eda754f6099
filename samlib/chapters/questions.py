"""Seven questions of a newcomer, answered by the records: the first screen of README and book."""

from collections.abc import Callable

import pandas as pd

from samlib.chapters import batchnorm, one_pass, rho_sweep, sparsity, verdicts
from samlib.errors import RecordsMissing
from samlib.report import paper, tidy
from samlib.report.answers import HOLDS, REFUTED
from samlib.report.results import Results
from samlib.report.stats import NOT_RUN, REVERSED, SAME, SEEN, Comparison
from samlib.report.text import listed, number
from samlib.report.wording import points
from samlib.study.methods import ALL, BASE, ON


def does_the_same(results: Results) -> str:
    """SAM-ON's gain over the base optimizer as a share of SAM's, or alone where SAM has none.

    "Yes" where the interval of the share lies within `ALIKE`, and "open" where it holds 100 % and
    reaches farther.
    """
    on = results.cell(ON)
    gain = results.compare(on, results.cell(BASE))
    share = results.share(results.accuracies(on))
    if share is None:
        return f"SAM has no clear gain here; SAM-ON: {points(gain)}"
    alike = ALIKE[0] <= share.low and share.high <= ALIKE[1]
    yes = "Yes" if alike else "More" if share.low > 1 else "Less" if share.high < 1 else "Open"
    words = {SEEN: yes, SAME: "No gain", REVERSED: "No, a loss"}
    return _answered(gain, words, f"{share} of SAM's gain")


def beats_sam(results: Results) -> str:
    """SAM-ON minus SAM, both tuned."""
    direct = results.compare(results.cell(ON), results.cell(ALL))
    words = {SEEN: "Yes", SAME: "No difference", REVERSED: "No, SAM is better"}
    return _answered(direct, words, points(direct))


def is_special(results: Results) -> str:
    """Claim 8: SAM-ON minus every other choice of as many weights, each with a rho of its own."""
    found = sparsity.of_its_size(results)
    if not found:
        return NOT_RUN
    answer, names = sparsity.beyond_sparsity(results), [*found]
    if lacking := sparsity.lacking(results):
        nearest = min(found, key=lambda name: found[name].mean)
        most = f"the best of {len(found)} other choices" if len(found) > 1 else "another choice"
        size = f"{points(found[nearest])}, over {most} of as many weights ({nearest})"
        return f"Not decided: {size}; {listed(lacking)} not run"
    words = {SEEN: "Yes", SAME: "No", REVERSED: "No, another choice does better"}
    name = names[answer.decides]
    size = f"{points(found[name])}, over as many weights chosen otherwise ({name}"
    return f"{words.get(answer.seen, 'Open')}: {size}, {answer.place})"


def needs_larger_rho(results: Results) -> str:
    """The ratio of the chosen rho; no test is made of it."""
    ratio = rho_sweep.ratio(results, "l2")
    word = "Larger" if ratio > 1 else "Not larger"
    known = rho_sweep.how_chosen(results)
    return f"{word}: {number(ratio, '.2g')} ×, {known}; described, not tested"


def is_it_batchnorm(results: Results) -> str:
    """Claim 15: the two gains without statistics of the perturbed pass."""
    if results.profile.headline in results.profile.transformers:
        return "The network has no BatchNorm"
    found = verdicts.verdict("15", results)
    if found.seen == NOT_RUN:
        left = batchnorm.recalibrated(results)
        if not left.seeds:
            return NOT_RUN
        told = f"a gain of {points(left)}, with recalibrated ones"
        return f"Half answered: {told}; first pass alone not run"
    words = {SEEN: "No", HOLDS: "No", SAME: "Yes", REVERSED: "Yes", REFUTED: "Yes"}
    word = words.get(found.seen, "Open")
    which = ("statistics of the first pass alone", "recalibrated ones")[found.answer.decides]
    usual = batchnorm.usual(results, found.answer.decides)
    told = (
        f"{points(found.answer.deciding)}, with {which}; with the usual ones "
        f"{number(usual.mean, '+.2f')} on the same seeds"
    )
    everywhere = results.compare(results.cell(ON), results.cell(BASE))
    if word != "No" and everywhere.seen != SEEN:
        return f"No clear gain to explain: {points(everywhere)}, with the usual statistics; {told}"
    return f"{word}: a gain of {told}"


def _answered(c: Comparison, words: dict[str, str], size: str) -> str:
    more = f" ({c.needed} seeds for an 80 % chance of an answer)" if c.needed else ""
    return f"{words.get(c.seen, 'Open')}: {size}{more}"


def _reported_share(key: str) -> str:
    """A reported gain over SGD as a share of the best SAM's of the authors' figure."""
    base, best = paper.HEADLINE["base"].value, paper.best("l2", "all")[1].value
    value = paper.best("l2", key)[1].value if key == "only_norm" else _RANDOM
    return f"{100 * (value - base) / (best - base):.0f} %"


ALIKE = (0.8, 1.25)  # shares of SAM's gain that count as the same
_RANDOM = paper.SPARSITY["random", 99.95].value
QUESTIONS: tuple[tuple[str, Callable[[Results], str], str], ...] = (
    (
        "Does SAM-ON do what SAM does?",
        does_the_same,
        f"{_reported_share('only_norm')} of SAM's gain, both tuned",
    ),
    (
        "Does SAM-ON beat SAM?",
        beats_sam,
        f"{paper.best_gap('l2', 'only_norm', 'all'):+.2f}, both tuned",
    ),
    (
        "Does SAM-ON beat other masks of its size?",
        is_special,
        f"a random mask: {_reported_share('random')} (its rule for ρ is unknown)",
    ),
    ("Is the best ρ of SAM-ON larger?", needs_larger_rho, f"{paper.rho_ratio('l2'):g} ×"),
    ("Is it BatchNorm's statistics?", is_it_batchnorm, "not asked"),
    ("Is there SAM-ON's gain at the price of one pass?", one_pass.in_short, "not asked"),
    (
        "And with recalibrated statistics of every method?",
        one_pass.in_short_recalibrated,
        "not asked",
    ),
)


def table(*everywhere: Results) -> pd.DataFrame:
    """A row per question: what the records of each profile answer, and the paper's answer."""
    return tidy.table(
        [
            {
                "question": question,
                **{f"here, {r.profile.where}": _or_not_run(answer, r) for r in everywhere},
                "the paper, on CIFAR-100": reported,
            }
            for question, answer, reported in QUESTIONS
        ]
    )


def _or_not_run(answer: Callable[[Results], str], results: Results) -> str:
    try:
        return answer(results)
    except RecordsMissing:
        return NOT_RUN
