"""Five questions a newcomer has, answered from the records: the first screen of README and book."""

from collections.abc import Callable

import pandas as pd

from samlib.chapters import batchnorm, law, rho_sweep, sparsity, verdicts
from samlib.errors import RecordsMissing
from samlib.report import paper, tidy
from samlib.report.answers import HOLDS, REFUTED
from samlib.report.law import prediction
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import NOT_RUN, REVERSED, SAME, SEEN, Comparison
from samlib.report.text import listed, number
from samlib.report.wording import points
from samlib.study.methods import ALL, BASE, ON, RANDOM


def does_the_same(results: Results) -> str:
    """SAM-ON's gain over the base optimizer as a share of SAM's, or alone where SAM has none."""
    on = results.cell(ON)
    gain = results.compare(on, results.cell(BASE))
    share = results.share(results.accuracies(on))
    if share is None:
        return f"SAM has no clear gain here; SAM-ON: {points(gain)}"
    yes = "More" if share.low > 1 else "Less" if share.high < 1 else "Yes"
    words = {SEEN: yes, SAME: "No gain", REVERSED: "No, a loss"}
    return _answered(gain, words, f"{share} of SAM's gain")


def beats_sam(results: Results) -> str:
    """SAM-ON minus SAM, both tuned."""
    direct = results.compare(results.cell(ON), results.cell(ALL))
    words = {SEEN: "Yes", SAME: "No difference", REVERSED: "No, SAM is better"}
    return _answered(direct, words, points(direct))


def is_special(results: Results) -> str:
    """SAM-ON minus as many random coordinates, tuned alike."""
    if not results.profile.has(results.profile.headline, RANDOM):
        return NOT_RUN
    random = results.cell(RANDOM)
    ahead = results.compare(results.cell(ON), random)
    share = results.share(results.accuracies(random))
    against = ", against as many random weights"
    if share:
        against += f", which get {share} of SAM's gain"
    words = {SEEN: "Yes", SAME: "No", REVERSED: "No, random ones do better"}
    if lacking := sparsity.lacking(results):
        words |= {SEEN: "So far yes"}
        against += f"; {listed(lacking)} not run"
    return _answered(ahead, words, points(ahead)) + against


def needs_larger_rho(results: Results) -> str:
    """The ratio of the chosen rho, and the one that the share of the gradient predicts."""
    ratio = rho_sweep.ratio(results, "l2")
    by_law = prediction(results, ON)
    expected = ""
    if by_law:
        predicted = number(by_law.rho / results.rho(results.cell(ALL)), ".2g")
        expected = f"; a law found on digits predicts {predicted} ×{_at_the_laws(results)}"
    word = "Larger" if ratio > 1 else "Not larger"
    known = "each ρ known to a factor of √2"
    return f"{word}: {number(ratio, '.2g')} ×, {known}; described, not tested{expected}"


def _at_the_laws(results: Results) -> str:
    """What SAM-ON loses at the rho that the law predicts, where that was run."""
    pair = law.forward(results).get(method_name(results.profile, ON))
    if pair is None or not results.has(*pair):
        return ""
    return f", where SAM-ON is {results.compare(*pair)} points against SAM-ON tuned"


def is_it_batchnorm(results: Results) -> str:
    """Claim 15: the two gains without statistics of the perturbed pass."""
    if results.profile.headline in results.profile.transformers:
        return "The network has no BatchNorm"
    found = verdicts.verdict("15", results)
    if found.seen == NOT_RUN:
        left = points(batchnorm.recalibrated(results))
        return f"Half answered: a gain of {left}, with recalibrated ones; first pass alone not run"
    words = {SEEN: "No", HOLDS: "No", SAME: "Yes", REVERSED: "Yes", REFUTED: "Yes"}
    word = words.get(found.seen, "Open")
    first, anew = map(points, found.answer.comparisons)
    told = f"{first}, with statistics of the first pass alone; {anew}, with recalibrated ones"
    usual = results.compare(results.cell(ON), results.cell(BASE))
    if word != "No" and usual.seen != SEEN:
        return f"No clear gain to explain: {points(usual)}, with the usual statistics; {told}"
    return f"{word}: a gain of {told}"


def _answered(c: Comparison, words: dict[str, str], size: str) -> str:
    more = f" ({c.needed} seeds for 80 % power)" if c.needed else ""
    return f"{words.get(c.seen, 'Open')}: {size}{more}"


def _reported_share(key: str) -> str:
    """A reported gain over SGD as a share of the best SAM's of the authors' figure."""
    base, best = paper.HEADLINE["base"].value, paper.best("l2", "all")[1].value
    value = paper.best("l2", key)[1].value if key == "only_norm" else _RANDOM
    return f"{100 * (value - base) / (best - base):.0f} %"


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
        "Are normalization layers special?",
        is_special,
        f"a random mask: {_reported_share('random')} (its rule for ρ is unknown)",
    ),
    ("Is the best ρ of SAM-ON larger?", needs_larger_rho, f"{paper.rho_ratio('l2'):g} ×"),
    ("Is it BatchNorm's statistics?", is_it_batchnorm, "not asked"),
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
