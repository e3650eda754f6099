"""The finding in one picture: base optimizer, SAM and SAM-ON, each tuned alike."""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samlib.chapters import claims
from samlib.report import campaign_cost, missing, paper, step_times, tidy
from samlib.report.answers import HOLDS, NOT_ANSWERED, REFUTED, Answer, each_of
from samlib.report.figures import draw_points, key_of, long, use_style
from samlib.report.names import headline_name, method_name
from samlib.report.results import RECALIBRATED, Results
from samlib.report.text import listed
from samlib.report.wording import against, points, reading
from samlib.study import plan
from samlib.study.cells import Cell
from samlib.study.methods import ALL, BASE, DECAY, ON, REPORTED


def table(results: Results) -> pd.DataFrame:
    """Every method of the headline at its chosen rho, and the base optimizer stopped early."""
    base, on = (results.accuracies(results.cell(m)) for m in (BASE, ON))
    rows, needs = [], plan.introduction(results.profile)
    for cell in needs.cells:
        values = results.accuracies(cell)
        rows.append(_row(results, cell, values, base, on))
        if cell.method == BASE:
            stopped = results.early_stopped(cell)
            row = _row(results, cell, stopped, base, on)
            name = method_name(results.profile, BASE)
            row |= {"method": f"{name}, epoch chosen on validation", "the paper (WRN-28-10)": None}
            row |= {"training accuracy": {"percent": math.nan}}  # the last epoch's is known alone
            row |= {"share of SAM's gain": tidy.share(results.share(stopped))}
            rows.append(row | {"minus base": tidy.difference(results.judge(stopped - base))})
    for cell in needs.beside:
        if results.has(cell):
            rows.append(_row(results, cell, results.accuracies(cell), base, on))
        else:
            rows.append({"method": f"{method_name(results.profile, cell.method)}: not run yet"})
    return tidy.table(rows)


def _row(results: Results, cell: Cell, values: pd.Series, base: pd.Series, on: pd.Series) -> dict:
    method, timed = cell.method, step_times.own_or_none(results)
    no_ratio = [math.nan] * 3
    over_base = None if method == BASE else results.judge(values - base)
    lead = None if method == ON else results.judge(on - values)
    key, name = key_of(method), method_name(results.profile, method)
    if method == DECAY:
        key, name = "decay", f"{name} to {results.rho(cell):.3g}"
    return {
        "method": name,
        "the paper (WRN-28-10)": tidy.reported(paper.HEADLINE.get(key)),
        "accuracy": tidy.at_rho(results, cell, values),
        "training accuracy": {"percent": results.fitted(cell)},
        "minus base": over_base and tidy.difference(over_base),
        "share of SAM's gain": tidy.share(None if method == BASE else results.share(values)),
        "SAM-ON minus it": lead and tidy.difference(lead),
        "step time": timed["ratios"].get(key_of(method), no_ratio)[1] if timed else math.nan,
        "seeds": len(values),
        "diverged": results.diverged(cell),
    }


def figure(results: Results) -> Figure:
    """Test accuracy of base optimizer, SAM and SAM-ON, and the paired differences.

    Between them stands the base optimizer with its weight decay tuned, where it is run.
    """
    use_style()
    tuned = [DECAY] if results.ran(DECAY) else []
    cells = [results.cell(method) for method in (BASE, *tuned, ALL, ON)]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.3), width_ratios=[3, 2])
    keys = [key_of(cell.method) for cell in cells]
    columns = {}
    for cell in cells:
        name, chosen = method_name(results.profile, cell.method), f"{results.rho(cell):.3g}"
        if cell.method == DECAY:
            name = f"{method_name(results.profile, BASE)}\ndecay\n{chosen}"
        elif cell.method != BASE:
            name += f"\nρ = {chosen}"
        columns[name] = results.accuracies(cell)
    draw_points(left, long(columns, keys), "label", "value", jitter=0.18)
    left.set_ylabel("test accuracy, %")
    left.set_title(f"{headline_name(results.profile)}, {len(cells[0].seeds)} seeds")
    base, *_, everything, on = columns.values()
    pairs = {"SAM\n− base": everything - base, "SAM-ON\n− SAM": on - everything}
    differences = {label: values.dropna() for label, values in pairs.items()}
    draw_points(right, long(differences, keys[-2:]), "label", "value", jitter=0.18)
    right.axhline(0, color="#444444", lw=0.8)
    right.set_ylabel("paired difference, points")
    right.set_title("same seed, same data")
    figure.tight_layout()
    return figure


def problem(results: Results) -> str:
    """What was trained: network, images and steps, and what the accuracies can be compared with."""
    cell = results.cell(ON)
    base, mask = cell.base, results.runs(cell)[0]["mask"]
    images, _ = campaign_cost.images(base)
    steps = base.epochs * math.ceil(images / base.batch_size)
    return (
        f"{headline_name(results.profile)}: {mask['total']:,} parameters, {mask['count']:,} of "
        f"them ({100 * mask['count'] / mask['total']:.2g} %) in normalization layers; {images:,} "
        f"training images, {base.epochs} epochs, {steps:,} steps.{_not_the_papers(results)}"
    )


def _not_the_papers(results: Results) -> str:
    own = (c for c in claims.CLAIMS if c.key != "12")  # a count, the same everywhere
    if any(claims.bearing(results.profile.name, c.key).on_paper == claims.SAME for c in own):
        return ""
    return (
        " The paper has larger networks, more images and longer schedules: the signs of "
        "differences can be compared with the paper's, their sizes and the accuracies cannot."
    )


def finding(results: Results) -> str:
    """What the headline runs found."""
    on = results.cell(ON)
    direct = results.compare(on, results.cell(ALL))
    share = results.share(results.accuracies(on))
    part = (
        f"SAM-ON gets {share} of SAM's gain over {method_name(results.profile, BASE)}. "
        if share
        else f"SAM's own gain over {method_name(results.profile, BASE)} is not shown. "
    )
    said = f"{part}Against each other, {reading(direct, 'SAM-ON', 'SAM')} ({points(direct)})."
    return f"{said} {finding_decay(results)}".strip()


def finding_decay(results: Results) -> str:
    """What is left of both gains over a base optimizer that is tuned, too; "" if it is not run."""
    if not results.ran(DECAY):
        return ""
    decay, name = results.cell(DECAY), method_name(results.profile, BASE)
    everything, on = (results.compare(results.cell(method), decay) for method in (ALL, ON))
    recalibrated = [
        results.compare(results.cell(method), decay, column=RECALIBRATED) for method in (ALL, ON)
    ]
    tuned, it = f"{name} with a tuned weight decay", f"that {name}"
    kept = "SAM and SAM-ON keep the untuned weight decay."
    if (chosen := results.rho(decay)) == decay.base.weight_decay:
        kept = f"The search chose a weight decay of {chosen:g}, which is that of all three anyway."
    said = (
        f"SAM is {against(everything, tuned)}, "
        f"which reaches {results.accuracies(decay).mean():.2f} %; SAM-ON is {against(on, it)}. "
        f"{kept}"
    )
    if not all(c.seeds for c in recalibrated):
        return said
    numbers = listed([f"{c} ({c.seen})" for c in recalibrated])
    return f"{said} With recalibrated BatchNorm statistics SAM and SAM-ON minus {it} are {numbers}."


def finding_elsewhere(results: Results) -> str:
    """What is known of the problems nearer to the paper."""
    said = [
        f"No answer yet {of.where}. {what}" if what else f"There is an answer {of.where}, too."
        for of, what in missing.nearer_to_the_paper(results)
    ]
    return " ".join(said) or "No problem nearer to the paper has been run."


def best_against_best(results: Results) -> Answer:
    """SAM-ON minus SAM, each at its own chosen rho (claim 3)."""
    direct = results.compare(results.cell(ON), results.cell(ALL))
    return each_of([direct], f"{points(direct)}")


def absolute(results: Results) -> Answer:
    """The poster's three accuracies within ±0.4, on the network and data they belong to (claim 2).

    SAM and SAM-ON are at the values of rho that the poster names, on the compared seeds.
    """
    base, headline = results.cell(BASE).base, results.profile.headline
    planned = all(results.profile.has(headline, method) for method in REPORTED)
    if (base.model, base.dataset) != ("wrn28_10", "cifar100") or not planned:
        return NOT_ANSWERED
    ours = results.together(*(results.cell(method) for method in (BASE, *REPORTED)))
    theirs = [paper.HEADLINE[key_of(method)].value for method in (BASE, *REPORTED)]
    near = all(abs(ours.mean() - theirs) <= 0.4)
    text = ", ".join(f"{mean:.2f}" for mean in ours.mean())
    return Answer(HOLDS if near else REFUTED, text, seeds=len(ours))


TABLES = {"headline": table}
DECIDES = {"2": absolute, "3": best_against_best}
