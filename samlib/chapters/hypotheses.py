"""The hypotheses of a plan that was written before its runs, and what the records say of each."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from samlib.chapters import law, one_pass, rho_sweep, verdicts
from samlib.errors import RecordsMissing
from samlib.report import tidy
from samlib.report.answers import DESCRIBED, NOT_ANSWERED, PARTLY, Answer, each_of
from samlib.report.names import method_name, problem_name
from samlib.report.results import RECALIBRATED, Results
from samlib.report.stats import NOT_RUN, NOTHING, OPEN, SAME, SEEN, Comparison
from samlib.report.text import listed, number
from samlib.report.wording import points
from samlib.study.methods import ALL, BASE, DECAY, ON, Method


def sam_gains(results: Results) -> Answer:
    """SAM minus the base optimizer, and minus the base optimizer with its weight decay tuned."""
    gains = {
        method_name(results.profile, method): _compared(results, ALL, method)
        for method in (BASE, DECAY)
    }
    if all(gain == NOTHING for gain in gains.values()):
        return NOT_ANSWERED
    ours = ", ".join(f"{gain} over {name}" for name, gain in gains.items())
    words = {gain.seen for gain in gains.values()}
    partly = SEEN in words and words <= {SEEN, SAME, OPEN} and len(words) > 1
    found = each_of([*gains.values()], ours, names=[f"over {name}" for name in gains])
    return replace(found, ours=ours, seen=PARTLY if partly else found.seen)


def larger_rho(results: Results) -> Answer:
    """The ratio of the chosen values; described, not tested."""
    return Answer(DESCRIBED, f"{number(rho_sweep.ratio(results, 'l2'), '.2g')} × for SAM")


def one_factor(results: Results) -> Answer:
    """SAM-ON minus SAM where one factor of the problem is changed; described, not tested."""
    profile = results.profile
    changed = [f for f in profile.bases if f not in (profile.headline, *profile.transformers)]
    leads = {problem_name(profile, f): _compared(results, ON, ALL, f) for f in changed}
    if all(lead == NOTHING for lead in leads.values()):
        return NOT_ANSWERED
    ours = ", ".join(f"{lead} ({name})" for name, lead in leads.items())
    known = {name: lead.mean for name, lead in leads.items() if lead.seeds}
    if len(known) == 1:
        (name,) = known
        return Answer(DESCRIBED, ours, f"{leads[name]} ({name}), one problem")
    ends = [
        f"{number(known[n], '+.2f')} ({n})"
        for n in (min(known, key=known.get), max(known, key=known.get))
    ]
    return Answer(DESCRIBED, ours, f"from {' to '.join(ends)}, over {len(known)} problems")


def recalibrated_msam(results: Results) -> Answer:
    """MSAM with only norm minus 70 % of SAM-ON's gain, both with recalibrated statistics."""
    gain = one_pass.enough(results, results.cell(ON.but(member="msam")), RECALIBRATED)
    return each_of([gain], points(gain))


def _compared(
    results: Results, better: Method, worse: Method, problem: str | None = None
) -> Comparison:
    """One method minus another; nothing where one of them is not run."""
    try:
        return results.compare(*(results.cell(method, problem) for method in (better, worse)))
    except RecordsMissing:
        return NOTHING


class Hypothesis(NamedTuple):
    """What a plan expects.

    Attributes:
        statement: in the words of the plan.
        look: the key of the paper's claim that the hypothesis repeats, or what the records say.
        told: the chapter whose runs answer it, if that is not the claim's.
    """

    statement: str
    look: str | Callable[[Results], Answer]
    told: str = ""

    @property
    def chapter(self) -> str:
        """The chapter whose runs answer it."""
        return self.told or verdicts.chapter(verdicts.BY_KEY[self.look])


_PRIMARY = Hypothesis("SAM-ON beats SAM, both tuned", "3")
_SAM = Hypothesis(
    "SAM gains over SGD, and over SGD with a tuned weight decay", sam_gains, "introduction"
)
_RHO = Hypothesis("the best ρ of SAM-ON is larger than SAM's", larger_rho, "rho_sweep")
_STATISTICS = Hypothesis("BatchNorm's statistics are not the cause", "15")
# Of the page `preregistration`, in its order.
CIFAR100_10K = (
    _PRIMARY,
    _SAM,
    Hypothesis("sparsity alone does not explain SAM-ON's gain", "8"),
    Hypothesis("leaving the normalization layers out harms", "4"),
    Hypothesis("ρ for a mask follows from its share of the gradient", law.untuned_is_enough, "law"),
    Hypothesis("SAM-ON is at least as good as SAM for every variant", "1"),
    _RHO,
    Hypothesis("SAM-ON is sharper and generalises better", "9"),
    Hypothesis("SAM-ON moves γ to larger values", "10"),
    _STATISTICS,
    Hypothesis("gains under corruption and attack exceed the clean gain", "13"),
    Hypothesis(
        "one property of the problem makes SAM-ON's lead come and go", one_factor, "architectures"
    ),
)
CIFAR100_45K = (
    _PRIMARY,
    _SAM,
    _RHO,
    _STATISTICS,
    Hypothesis(
        "with recalibrated statistics, MSAM with only norm has more than 70 % of SAM-ON's gain",
        recalibrated_msam,
        "one_pass",
    ),
)
GATE = 80  # percent, on the tuning seeds
# Plans by profile.
PLANNED = {"cifar100-10k": CIFAR100_10K, "cifar100-45k": CIFAR100_45K}
_PARTLY_CAME_LATER = "cifar100-10k"  # than its first records


def table(results: Results) -> pd.DataFrame:
    """What the records say of every hypothesis of the profile's plan; no rows without a plan."""
    rows = [
        {
            "": place,
            "hypothesis": each.statement,
            "ours": found.in_a_cell,
            "verdict": {"seen": found.seen, "where": found.where or results.profile.where},
            "chapter": each.chapter,
        }
        for place, each in enumerate(PLANNED.get(results.profile.name, ()), start=1)
        for found in [answer(each, results)]
    ]
    return tidy.table(rows)


def answer(hypothesis: Hypothesis, results: Results) -> Answer:
    """What the records say of a hypothesis; "not run" where there are none, never a guess."""
    if isinstance(hypothesis.look, str):
        return verdicts.answer(verdicts.BY_KEY[hypothesis.look], results)
    try:
        return hypothesis.look(results)
    except RecordsMissing:
        return NOT_ANSWERED


def finding(results: Results) -> str:
    """How many hypotheses of the plan have an answer; which profiles have such a plan."""
    planned = PLANNED.get(results.profile.name)
    if planned is None:
        return f"A plan with hypotheses was written before the runs of {listed([*PLANNED])} only."
    words = sorted((answer(each, results).seen for each in planned), key=NOT_RUN.__eq__)
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    said = listed([f"{count} {word}" for word, count in counts.items()])
    later = PARTLY in counts and results.profile.name == _PARTLY_CAME_LATER
    partly = " The word “partly” was added after the first group of runs." * later
    return f"Of the {len(planned)} hypotheses of the plan: {said}.{partly} {gate(results)}".strip()


def gate(results: Results) -> str:
    """Whether the base optimizer fits its training images, as the plan asks before all else."""
    decay = results.cell(DECAY)
    try:
        runs = results.runs(decay, decay.base.weight_decay)
    except RecordsMissing:
        return ""
    fitted = [run["curves"]["train_accuracy"][-1] for run in runs]
    word = "met" if min(fitted) > GATE else "not met"
    seen = " and ".join(f"{accuracy:.1f}" for accuracy in fitted)
    return (
        f"The plan's gate, a training accuracy above {GATE} % with SGD, was {word}: {seen} % on "
        "the tuning seeds."
    )
