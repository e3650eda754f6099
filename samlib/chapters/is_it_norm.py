"""Is it the normalization? Claim 14 by three routes that share no control.

Set before the runs. Each difference is above zero if normalization layers are what matters:

1. The transformer's LayerNorm is replaced by DyT, gamma tanh(alpha x) + beta, which normalises
   nothing: SAM-ON's lead over SAM with LayerNorm minus its lead with DyT.
2. Per-channel scales of the weights, outside every norm layer, take the perturbation: SAM-ON minus
   SAM on the scales of outputs, and of inputs.
3. gamma and beta are perturbed as ever, but held at their initial values: SAM-ON's gain minus what
   is left of it when the norm layers are never released.
"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samlib.report import tidy
from samlib.report.answers import Answer, each_of
from samlib.report.figures import draw_intervals, use_style
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import NOT_RUN, SEEN, Comparison, corrected
from samlib.report.text import listed
from samlib.report.wording import lines
from samlib.study import plan
from samlib.study.cells import Cell
from samlib.study.methods import BASE, HEADLINE, ON, SCALES

Routes = dict[str, Comparison]
WORSE = 10.0  # points by which a network without norm layers is another one


def _by_norm(results: Results) -> dict[str, list[Cell]]:
    """Base optimizer, SAM and SAM-ON of the transformer, with LayerNorm and with DyT."""
    found = plan.dyt(results.profile)
    return {"LayerNorm": found[:3], "DyT": found[3:]} if found else {}


def replaced(results: Results) -> pd.DataFrame:
    """The transformer with LayerNorm and with DyT: SAM and SAM-ON over the base, and the lead."""
    rows, comparisons = [], []
    for kind, (base, everything, on) in _by_norm(results).items():
        for cell in (base, everything, on):
            comparisons.append(results.compare(on, everything) if cell is on else None)
            over = None if cell is base else tidy.difference(results.compare(cell, base))
            rows.append(
                {
                    "in the norm's place": kind,
                    "method": method_name(results.profile, cell.method.plain, "vit"),
                    "accuracy": tidy.at_rho(results, cell),
                    "minus base": over,
                    "diverged": results.diverged(cell),
                }
            )
    return tidy.judged(rows, "SAM-ON − SAM", comparisons, results.profile.where)


def _lead_lost(results: Results) -> Routes:
    both = _by_norm(results)
    if not both:
        return {}
    leads = {k: results.accuracies(c[2]) - results.accuracies(c[1]) for k, c in both.items()}
    return {"lead with LayerNorm − lead with DyT": results.judge(leads["LayerNorm"] - leads["DyT"])}


def _over_scales(results: Results) -> Routes:
    return {
        f"SAM-ON − SAM on {method_name(results.profile, m)}": results.compare(
            results.cell(ON), results.cell(m)
        )
        for m in plan.known(results.profile, SCALES)
    }


def _held(results: Results) -> Routes:
    if not _over_scales(results):  # the controls are run beside the scales
        return {}
    gains = []
    for held in (False, True):
        on, base = (results.cell(plan.held(m)) if held else results.cell(m) for m in (ON, BASE))
        gains.append(results.accuracies(on) - results.accuracies(base))
    return {"gain − gain with γ and β held": results.judge(gains[0] - gains[1])}


def routes(results: Results) -> dict[int, Routes]:
    """The comparisons of each route; a route that is not run has none."""
    return {1: _lead_lost(results), 2: _over_scales(results), 3: _held(results)}


def _judged(results: Results) -> dict[int, Routes]:
    """The routes that are run with what the table says of each: corrected over all of them."""
    found = routes(results)
    together = iter(corrected([c for route in found.values() for c in route.values()]))
    return {n: {name: next(together) for name in route} for n, route in found.items() if route}


def table(results: Results) -> pd.DataFrame:
    """Every comparison of the three routes; above zero speaks for normalization."""
    found = [(n, name, c) for n, route in routes(results).items() for name, c in route.items()]
    rows = [{"route": str(n), "compared": name} for n, name, _ in found]
    return tidy.judged(rows, "difference", [c for *_, c in found], results.profile.where)


def figure(results: Results) -> Figure:
    """Every comparison of the three routes with its interval; above zero speaks for norm layers."""
    use_style()
    found = {f"{n}: {k}": c for n, route in routes(results).items() for k, c in route.items()}
    figure, ax = plt.subplots(figsize=(7.6, 0.4 * len(found) + 1.0))
    draw_intervals(ax, found)
    ax.set_xlabel("points; above zero speaks for normalization layers")
    figure.tight_layout()
    return figure


def parts(results: Results) -> pd.DataFrame:
    """What moves, on the headline network: everything, norm layers, gamma, scales; held or free."""
    rows = []
    known = plan.known(results.profile, (*plan.PARTS[:1], *SCALES))
    for method in (*HEADLINE, *known):
        cell = results.cell(method)
        row = {"perturbed": method_name(results.profile, method)}
        if method in plan.PARTS or not _held(results):
            rows.append(row | {"accuracy": tidy.at_rho(results, cell)})
            continue
        both = results.together(cell, results.cell(plan.held(method)))  # on the same seeds
        row["accuracy"] = tidy.at_rho(results, cell, both[0])
        rows.append(row | {"γ and β held": tidy.spread(both[1])})
    return tidy.table(rows)


def verdict(results: Results) -> Answer:
    """Above zero on every comparison of all three routes; claim 14 asks for the second alone."""
    found = routes(results)
    if not all(found.values()):
        missing = [str(n) for n, route in found.items() if not route]
        return Answer(NOT_RUN, f"route {listed(missing)} is not run")
    together = [c for route in found.values() for c in route.values()]
    ours = "; ".join(f"{name} {c}" for route in found.values() for name, c in route.items())
    return each_of(together, ours, names=[name for route in found.values() for name in route])


def finding(results: Results) -> str:
    """What each route says, and all three together."""
    said = [
        f"route {n}: {listed([f'{name} {c} ({c.seen})' for name, c in route.items()])}"
        for n, route in _judged(results).items()
    ]
    answer = verdict(results)
    end = f" ({answer.ours})" if answer.seen == NOT_RUN else ""
    return f"In points, {'; '.join(said)}. All three together: {answer.seen}{end}."


def finding_dyt(results: Results) -> str:
    """Whether SAM-ON's lead over SAM is there without a normalization."""
    both = _by_norm(results)
    if not both:
        return "DyT is not run in this profile."
    found = corrected([results.compare(on, all_) for _, all_, on in both.values()])  # as the table
    leads = dict(zip(both, found, strict=True))
    told = [f"with {kind} {lead} ({lead.seen})" for kind, lead in leads.items()]
    fitted = {kind: results.accuracies(base).mean() for kind, (base, *_) in both.items()}
    said = f"SAM-ON − SAM is {listed(told)} points over {leads['DyT'].seeds} seeds."
    if fitted["DyT"] > fitted["LayerNorm"] - WORSE:
        return said
    return (
        f"{said} The base optimizer reaches {fitted['DyT']:.1f} % with DyT and "
        f"{fitted['LayerNorm']:.1f} % with LayerNorm: a network that has learned so much less says "
        "little about the lead."
    )


def opening(results: Results) -> dict[str, str]:
    """What is said, what is seen, and the verdict with what it is worth."""
    says = "The title: normalization layers are all that sharpness-aware minimization needs."
    words = [c.seen for route in _judged(results).values() for c in route.values()]
    told = f"{words.count(SEEN)} of {len(words)} comparisons"
    sees = f"{told} speak for normalization rather than for scale."
    return lines(results.profile.where, says, sees, verdict(results).seen)


TABLES = {"is_it_norm": table, "dyt": replaced, "released": parts}
DECIDES: dict = {}
