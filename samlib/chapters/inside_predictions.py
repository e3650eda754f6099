"""What was predicted of the inside of final weights, before it was measured (specification 6)."""

import math
from collections.abc import Callable
from dataclasses import replace

from samlib.chapters import anatomy
from samlib.chapters.explanations import Explanation, Found
from samlib.errors import RecordsMissing
from samlib.report.names import MODEL_NAMES, method_name
from samlib.report.results import Results
from samlib.report.stats import OPEN, REVERSED, SAME, SEEN, Comparison, compare, shown_by
from samlib.report.text import number
from samlib.study.methods import ALL, BASE, ON, Method

BARRIER = 0.05  # nats: lower ones are none
TENTH = 0.1  # of the gain
RANK = 0.05  # of a rank correlation: closer ones are alike
FACTORS = {"weight_squared": "‖W‖²", "trace": "tr(H)", "index": "√(‖W‖² tr(H))"}

Look = Callable[[Results], Found]


def in_the_norms(results: Results) -> Found:
    """How far what γ and β of SAM-ON bring lies below a tenth of its gain."""
    gains = anatomy.gains(results, ON)
    brought, whole = gains["twin_with_own_norms"], gains["own"]
    below = compare((TENTH * whole - brought).dropna(), margin=0.0)
    if compare(whole.dropna(), margin=0.0).seen != SEEN:  # a tenth of no gain is no bound
        below = replace(below, seen=OPEN, needed=None)
    return below, "a tenth of the gain, less what γ and β of SAM-ON bring to the base network"


def _highest(results: Results) -> Found:
    above = compare(anatomy.highest(results, ON) - BARRIER, margin=0.0)
    mean, low, high = (value + BARRIER for value in (above.mean, above.low, above.high))
    found = replace(above, mean=mean, low=low, high=high)  # judged against the bound, not zero
    return found, "the highest barrier of a single layer"


def _free_gamma(pair: tuple[Method, Method], transformer: bool) -> Look:
    def look(results: Results) -> Found:
        for of in anatomy.norm_layers(results):
            if of.free and transformer == (of.problem in results.profile.transformers):
                model = MODEL_NAMES[results.profile.bases[of.problem].model]
                names = (method_name(results.profile, method, of.problem) for method in pair)
                what = f"mean |γ| of {model}, {' − '.join(names)}"
                return anatomy.gamma_over(results, pair, of), what
        return None

    return look


def _trace_over(other: Method, block: str) -> Look:
    def look(results: Results) -> Found:
        pair = (anatomy.curvature(results, method, "trace", block) for method in (ON, other))
        found = anatomy.log_ratio(*pair)
        name = method_name(results.profile, other)
        return found, f"SAM-ON over {name}: {number(10**found.mean)} ×"

    return look


def _index_ranks(results: Results) -> Found:
    table = anatomy.robust_and_sums(results)
    told = ", ".join(f"{FACTORS[name]} {number(r)}" for name, r in anatomy.ranks(table).items())
    off, low, high = anatomy.lead_of_the_index(table)
    seen = OPEN if math.isnan(off) else shown_by(low, high, RANK)
    found = Comparison(off, low, high, table.index.nunique(), math.nan, seen)
    return found, f"rank correlations: {told}"


def _follows(results: Results) -> Found:
    try:
        on, sam = (anatomy.turned(results, method, "after") for method in (ON, ALL))
    except RecordsMissing:
        return None
    lead = on - sam
    excess = results.judge(lead.drop(columns=0).mean(axis=1) - lead[0])
    return excess, "lead over SAM on rotated digits, mean over angles, − lead on clean ones"


_TOY = "Where no normalization follows, |γ| of {} that of the base optimizer."
_LOWER = (_TOY.format("SAM is below"), (ALL, BASE), (REVERSED,))
_NOT_LOWER = (_TOY.format("SAM-ON is not below"), (ON, BASE), (SEEN, SAME))


def _toy(name: str, transformer: bool, case: tuple) -> Explanation:
    prediction, pair, met_by = case
    return Explanation(name, prediction, _free_gamma(pair, transformer), met_by, "")


PREDICTIONS = (
    Explanation(
        "γ and β alone do not carry the gain",
        "The base network with γ and β of its SAM-ON twin has less than a tenth of the gain.",
        in_the_norms,
    ),
    Explanation(
        "one valley layer by layer",
        f"No single layer has a barrier: the highest is at most {BARRIER} nats.",
        _highest,
        (REVERSED,),
        "nats",
    ),
    _toy("the toy before the classifier (SAM)", False, _LOWER),
    _toy("the toy before the classifier (SAM-ON)", False, _NOT_LOWER),
    _toy("the toy in a transformer (SAM)", True, _LOWER),
    _toy("the toy in a transformer (SAM-ON)", True, _NOT_LOWER),
    Explanation(
        "flat where it perturbs",
        "The trace of the Hessian on γ and β is smaller with SAM-ON than with the base optimizer.",
        _trace_over(BASE, "only_norm"),
        (REVERSED,),
        "log₁₀",
    ),
    Explanation(
        "sharp elsewhere",
        "The trace of the Hessian on all other weights is larger with SAM-ON than with SAM.",
        _trace_over(ALL, "no_norm"),
        unit="log₁₀",
    ),
    Explanation(
        "the weight-curvature index",
        "Its sum over layers ranks runs by robust accuracy better than ‖W‖² or tr(H) does.",
        _index_ranks,
        unit="",
    ),
    Explanation(
        "it follows a turn",
        "SAM-ON's lead over SAM is larger after self-training on rotated digits than on clean "
        "ones.",
        _follows,
    ),
)
