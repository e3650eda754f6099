"""The finding in one picture: base optimizer, SAM and SAM-ON, and whether it is just rho."""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samlib.report import names, paper, step_times, tidy
from samlib.report.answers import NOT_ANSWERED, Answer, single
from samlib.report.figures import draw_points, key_of, long, use_style
from samlib.report.names import MODEL_NAMES, method_name
from samlib.report.results import Results
from samlib.report.stats import Comparison, compare, corrected
from samlib.report.wording import points, reading
from samlib.study import plan
from samlib.study.methods import ALL, BASE, ON


def table(results: Results) -> pd.DataFrame:
    """Base optimizer, SAM and SAM-ON in the headline family, each at its chosen rho."""
    cells = plan.introduction(results.profile).cells
    base = results.cell(BASE)
    timed = step_times.own_or_none(results)
    rows = []
    for cell in cells:
        method = cell.method
        key = key_of(method)
        over_base = None if method == BASE else results.compare(cell, base)
        lead = results.compare(results.cell(ON), cell) if method == ALL else None
        rows.append(
            {
                "method": method_name(results.profile, method),
                "reported (WRN-28-10, CIFAR-100)": tidy.reported(paper.HEADLINE[key]),
                "ours, last epoch": tidy.at_rho(results, cell),
                "best on test": tidy.spread(results.accuracies(cell, column="best_test_accuracy")),
                "minus base": over_base and tidy.difference(over_base),
                "SAM-ON minus it": lead and tidy.difference(lead),
                "step time": timed["ratios"][key][1] if timed else math.nan,
                "seeds": len(results.runs(cell)),
                "diverged": results.diverged(cell),
            }
        )
    return tidy.table(rows)


def is_it_rho(results: Results, family: str | None = None) -> pd.DataFrame:
    """SAM-ON minus SAM: each at its own chosen rho, and SAM at other values beside it."""
    on, everything = results.cell(ON, family), results.cell(ALL, family)
    chosen = results.rho(everything)
    labels = [f"SAM at its own choice, ρ = {chosen:g}"]
    labels += [f"SAM at ρ = {rho:g}" for rho in everything.grid if rho != chosen]
    rows = [{f"SAM-ON (ρ = {results.rho(on):g}) minus": label} for label in labels]
    return tidy.judged(rows, "difference", list(_at_every_rho(results, family).values()))


def _at_every_rho(results: Results, family: str | None = None) -> dict[float, Comparison]:
    """SAM-ON at its choice minus SAM at each rho, SAM's own choice first."""
    on, everything = results.cell(ON, family), results.cell(ALL, family)
    chosen = results.rho(everything)
    first = {chosen: results.compare(on, everything)}
    others = (rho for rho in everything.grid if rho != chosen)
    return first | {rho: results.compare(on, everything, rhos=(None, rho)) for rho in others}


def not_choosing(results: Results) -> Comparison:
    """SAM-ON minus SAM on the seeds that had no part in the choice of either's rho."""
    on, everything = results.cell(ON), results.cell(ALL)
    first = max(cell.sweep_seeds for cell in (on, everything) if len(cell.grid) > 1)
    difference = (results.accuracies(on) - results.accuracies(everything)).dropna()
    return compare(difference[difference.index >= first])


def figure(results: Results) -> Figure:
    """Test accuracy of base optimizer, SAM and SAM-ON, and the paired differences."""
    use_style()
    cells = plan.introduction(results.profile).cells
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.3), width_ratios=[3, 2])
    keys = [key_of(cell.method) for cell in cells]
    columns = {}
    for cell in cells:
        rho = "" if cell.method == BASE else f"\nρ = {results.rho(cell):g}"
        label = method_name(results.profile, cell.method) + rho
        columns[label] = results.accuracies(cell)
    draw_points(left, long(columns, keys), "label", "value", jitter=0.18)
    left.set_ylabel("test accuracy, %")
    model = MODEL_NAMES[cells[0].base.model]
    left.set_title(f"{model}, {cells[0].base.dataset}, {cells[0].seeds} seeds")
    base, everything, on = columns.values()
    pairs = {"SAM\n− base": everything - base, "SAM-ON\n− SAM": on - everything}
    draw_points(right, long(pairs, keys[1:]), "label", "value", jitter=0.18)
    right.axhline(0, color="#444444", lw=0.8)
    right.set_ylabel("paired difference, points")
    right.set_title("same seed, same data")
    figure.tight_layout()
    return figure


def finding(results: Results) -> str:
    """What the headline runs found."""
    base, everything, on = (results.cell(m) for m in (BASE, ALL, ON))
    name = names.method_name(results.profile, BASE)
    gain = results.compare(everything, base)
    gain_on = results.compare(on, base)
    direct = results.compare(on, everything)
    return (
        f"At the ρ their validation accuracy chose, SAM − {name} is {gain} points and "
        f"SAM-ON − {name} is {gain_on}. Against each other, "
        f"{reading(direct, 'SAM-ON', 'SAM')} (SAM-ON − SAM: {points(direct)})."
    )


def finding_is_it_rho(results: Results) -> str:
    """Whether SAM-ON's advantage survives a tuned SAM."""
    compared = _at_every_rho(results)
    chosen, tuned = next(iter(compared.items()))
    together = dict(zip(compared, corrected(list(compared.values())), strict=True))
    apart = not_choosing(results)
    held_out = "" if math.isnan(apart.low) else f"; {apart} over the {apart.seeds} that chose no ρ"
    text = (
        f"With SAM at its own choice, {reading(tuned, 'SAM-ON', 'SAM')} "
        f"({points(tuned)}{held_out}). "
    )
    elsewhere = [f"{r:g}" for r, c in together.items() if c.verdict == "holds" and r != chosen]
    if elsewhere and tuned.verdict != "holds":
        text += (
            f"Left at ρ = {' or '.join(elsewhere)}, SAM would lose to SAM-ON by more than chance: "
            "here the choice of SAM's ρ alone decides whether SAM-ON looks better."
        )
    elif elsewhere:
        text += f"SAM also loses at ρ = {', '.join(elsewhere)}."
    return text.strip()


def best_against_best(results: Results) -> Answer:
    """SAM-ON minus SAM, each at its own chosen rho (claim 3)."""
    return single(results.compare(results.cell(ON), results.cell(ALL)))


def absolute(results: Results) -> Answer:
    """The poster's three accuracies within ±0.4, on the network and data they belong to."""
    base = results.cell(BASE).base
    if (base.model, base.dataset) != ("wrn28_10", "cifar100"):
        return Answer("about WRN-28-10 on CIFAR-100 only", "not run")
    pairs = {"base": (BASE, None), "all": (ALL, 0.1), "only_norm": (ON, 1.0)}
    ours = {
        key: results.accuracies(results.cell(method), rho) for key, (method, rho) in pairs.items()
    }
    if any(values.empty for values in ours.values()):
        return NOT_ANSWERED
    means = {key: values.mean() for key, values in ours.items()}
    near = all(abs(means[key] - paper.HEADLINE[key].value) <= 0.4 for key in means)
    text = ", ".join(f"{mean:.2f}" for mean in means.values())
    return Answer(text, "holds" if near else "refuted", min(map(len, ours.values())))


TABLES = {"headline": table, "is_it_rho": is_it_rho}
DECIDES = {2: absolute, 3: best_against_best}
