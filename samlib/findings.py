"""Sentences of the book whose numbers and direction come from the records."""

from . import names, reported, tables, verdicts
from .results import Results
from .stats import Comparison
from .study import ALL, BASE, ON, SPARSE_MASKS, SWEPT, Method


def _points(comparison: Comparison) -> str:
    return f"{comparison} points over {comparison.seeds} seeds"


def _reading(comparison: Comparison, better: str, worse: str) -> str:
    """A comparison in words, in the direction the records give it."""
    if comparison.verdict == "holds":
        return f"{better} is better than {worse}"
    if comparison.verdict == "refuted":
        return f"{better} is worse than {worse}"
    if comparison.verdict == "equivalent":
        return f"{better} and {worse} differ by less than 0.2 points"
    more = f"; {comparison.needed} seeds would decide it" if comparison.needed else ""
    return f"{better} and {worse} cannot be told apart with {comparison.seeds} seeds{more}"


def introduction(results: Results) -> str:
    """What the headline runs found."""
    base, everything, on = (results.cell(m) for m in (BASE, ALL, ON))
    name = names.method_name(results.profile, BASE)
    gain = results.compare(everything, base)
    gain_on = results.compare(on, base)
    direct = results.compare(on, everything)
    return (
        f"At the ρ their validation accuracy chose, SAM − {name} is {gain} points and "
        f"SAM-ON − {name} is {gain_on}. Against each other, "
        f"{_reading(direct, 'SAM-ON', 'SAM')} (SAM-ON − SAM: {_points(direct)})."
    )


def is_it_rho(results: Results) -> str:
    """Whether SAM-ON's advantage survives a tuned SAM."""
    on, everything = results.cell(ON), results.cell(ALL)
    tuned = results.compare(on, everything)
    losing = [
        rho
        for rho in everything.grid
        if results.compare(on, everything, rhos=(None, rho)).verdict == "holds"
    ]
    chosen = results.rho(everything)
    text = f"With SAM at its own choice, {_reading(tuned, 'SAM-ON', 'SAM')} ({_points(tuned)}). "
    elsewhere = [f"{rho:g}" for rho in losing if rho != chosen]
    if elsewhere and tuned.verdict != "holds":
        text += (
            f"Left at ρ = {' or '.join(elsewhere)}, SAM would lose to SAM-ON by more than chance: "
            "here the choice of SAM's ρ alone decides whether SAM-ON looks better."
        )
    elif elsewhere:
        text += f"SAM also loses at ρ = {', '.join(elsewhere)}."
    return text


def rho_sweep(results: Results) -> str:
    """The ratio of the chosen radii."""
    parts = []
    for geometry in SWEPT:
        everything = results.cell(Method(geometry, "all"))
        on = results.cell(Method(geometry, "only_norm"))
        ratio = results.rho(on) / results.rho(everything)
        parts.append(f"{ratio:g} × for {names.GEOMETRY_NAMES[geometry]}")
    return (
        f"The chosen ρ of the only-norm mask is {', '.join(parts)} that of the full one "
        f"(reported: {', '.join(f'{reported.rho_ratio(g):g} ×' for g in SWEPT)})."
    )


def without_norm(results: Results) -> str:
    """Whether leaving norm layers out costs what their share predicts."""
    comparisons = dict(zip(SWEPT, tables.without_norm(results)[1], strict=True))
    harmed = [names.GEOMETRY_NAMES[g] for g, c in comparisons.items() if c.verdict == "holds"]
    helped = [names.GEOMETRY_NAMES[g] for g, c in comparisons.items() if c.verdict == "refuted"]
    elementwise = comparisons["elementwise_l2"]
    text = "Leaving the normalization layers out "
    text += f"costs {', '.join(harmed)} accuracy" if harmed else "is not shown to cost accuracy"
    if helped:
        text += f", and is better for {', '.join(helped)}"
    shares = tables.without_norm(results)[0].set_index("variant")["share on norm layers"]
    share = shares[names.GEOMETRY_NAMES["elementwise_l2"]]
    reported_gap = tables.reported_no_norm_gap("elementwise_l2")
    return (
        f"{text}. For elementwise ℓ₂, where {share} of the squared length falls on them, all − no "
        f"norm is {_points(elementwise)}; the authors' curves show {reported_gap}."
    )


def variants(results: Results) -> str:
    """How many variants gain, and how many lose, from the only-norm mask."""
    counts = tables.variants(results)["verdict"].value_counts()
    total = int(counts.sum())
    said = ", ".join(f"{counts.get(v, 0)} {w}" for v, w in _COUNTED)
    answer = verdicts.answer(verdicts.CLAIMS[0], results)
    return (
        f"Of {total} comparisons, {said}. The claim that SAM-ON is at least as good for every "
        f"variant: {answer.verdict}."
    )


_COUNTED = (
    ("holds", "favour only norm"),
    ("refuted", "favour all"),
    ("equivalent", "are equivalent"),
    ("undecided", "are undecided"),
)


def sparsity(results: Results) -> str:
    """Whether a random mask does better than the base optimizer, and which masks match SAM-ON."""
    base, on = results.cell(BASE), results.cell(ON)
    random = {rule: results.cell(Method("l2", "random", rule)) for rule in ("mask", "all")}
    gain = {rule: results.compare(cell, base) for rule, cell in random.items()}
    name = names.method_name(results.profile, BASE)
    text = (
        f"With a ρ of its own, random mask − {name} is {gain['mask']} points where the radius runs "
        f"over the mask, and {gain['all']} where it runs over all. "
    )
    against = {
        names.MASK_NAMES[mask]: results.compare(on, results.cell(Method("l2", mask, "mask")))
        for mask in SPARSE_MASKS
    }
    beaten = [name for name, c in against.items() if c.verdict == "holds"]
    better = [name for name, c in against.items() if c.verdict == "refuted"]
    open_ = [name for name, c in against.items() if c.verdict in ("undecided", "equivalent")]
    parts = []
    if beaten:
        parts.append(f"better than {', '.join(beaten)}")
    if better:
        parts.append(f"worse than {', '.join(better)}")
    if open_:
        parts.append(f"not told apart from {', '.join(open_)}")
    return text + f"At its own sparsity, each tuned over the mask, SAM-ON is {'; '.join(parts)}."
