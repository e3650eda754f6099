"""What does it cost? Step times beside their floor and the accuracy they buy; whole campaigns."""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samlib.bench import timing
from samlib.report import campaign_cost, paper, step_times, tidy
from samlib.report.answers import Answer, all_of, weakest
from samlib.report.figures import COLOURS, MARKERS, key_of, use_style
from samlib.report.names import MODEL_NAMES, method_name
from samlib.report.results import Results
from samlib.report.stats import Comparison, corrected
from samlib.report.step_times import FIRST, LATE, METHODS, short
from samlib.report.text import listed, number
from samlib.report.wording import points, reading
from samlib.study import plan
from samlib.study.methods import BASE, ON, Method


def against_base(results: Results) -> dict[Method, Comparison]:
    """Every method minus the base optimizer."""
    base = results.cell(BASE)
    return {m: results.compare(results.cell(m), base) for m in METHODS if m != BASE}


def against_on(results: Results) -> dict[Method, Comparison]:
    """Every method minus SAM-ON on all stages."""
    on = results.cell(ON)
    return {m: results.compare(results.cell(m), on) for m in METHODS if m != ON}


def table(results: Results) -> pd.DataFrame:
    """Step time over the base optimizer's, its floor, and accuracy, reported and ours."""
    record = step_times.own_or_none(results)
    over_base, over_on = against_base(results), against_on(results)
    over_base = dict(zip(over_base, corrected(list(over_base.values())), strict=True))
    rows = []
    for method in METHODS:
        key, cell = key_of(method), results.cell(method)
        ratio, accuracy = paper.RUNTIME[key]
        gain = over_base.get(method)
        rows.append(
            {
                "method": method_name(results.profile, method),
                "reported time": ratio,
                "time": tidy.quartiles(record["ratios"][key] if record else [math.nan] * 3),
                "floor": record["floors"][key][1] if record else math.nan,
                "reported accuracy": tidy.reported(accuracy),
                "accuracy": tidy.at_rho(results, cell),
                "minus base": gain and tidy.comparison(gain),
                "diverged": results.diverged(cell),
            }
        )
    return tidy.judged(rows, "minus SAM-ON", [over_on.get(method) for method in METHODS])


def _panel(ax: Axes, results: Results, at: dict[Method, tuple], times: dict[str, float]) -> None:
    """Accuracy against time: a marker, its interval and a label for each method.

    `at` is mean, low and high of the difference to SAM-ON by method, `times` by key.
    """
    ax.axhline(0, color=COLOURS["only_norm"], lw=0.8)
    spots = {}
    for method, (mean, low, high) in at.items():
        key = key_of(method)
        ax.plot([times[key]] * 2, [low, high], color=COLOURS[key], lw=1.5)
        ax.plot(times[key], mean, MARKERS[key], color=COLOURS[key], ms=8, mec="white")
        spots[method] = times[key], mean
    ax.set_xlim(0.93, 2.3)
    ax.margins(y=0.12)
    bottom, top = ax.get_ylim()
    line = 0.065 * (top - bottom)  # height of a label
    taken = [(x - 0.05, x + 0.05, y) for x, y in spots.values()]
    for method, (x, y) in spots.items():
        label = short(results, method)
        left, right = x + 0.05, x + 0.1 + 0.05 * len(label)
        for row in (0, 1, -1, 2, -2, 3, -3):  # beside its marker, or as near to that as is free
            where = y + row * line
            if not any(a < right and left < b and abs(where - c) < line for a, b, c in taken):
                break
        taken.append((left, right, where))
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
        ax.text(left, where, label, color=COLOURS[key_of(method)], va="center", bbox=box)


def figure(results: Results) -> Figure:
    """Accuracy minus SAM-ON's against step time: the poster's points, and ours with floors."""
    use_style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 4.0))
    best = paper.RUNTIME[key_of(ON)][1].value
    theirs = {m: (paper.RUNTIME[key_of(m)][1].value - best,) * 3 for m in METHODS}
    _panel(left, results, theirs, {key: time for key, (time, _) in paper.RUNTIME.items()})
    left.set_title("reported (poster, WRN-28)")
    left.set_ylabel("accuracy minus SAM-ON's, points")
    left.set_xlabel("time of a step / SGD's")
    right.set_title(f"ours ({MODEL_NAMES[results.cell(BASE).base.model]})")
    record = step_times.own_or_none(results)
    if record is None:
        right.text(0.5, 0.5, "step times: not run", ha="center", transform=right.transAxes)
        right.set_axis_off()
    else:
        found = {m: (c.mean, c.low, c.high) for m, c in against_on(results).items()}
        ours = {m: found.get(m, (0.0, 0.0, 0.0)) for m in METHODS}
        times = {key: ratio[1] for key, ratio in record["ratios"].items()}
        _panel(right, results, ours, times)
        for method in METHODS[1:]:
            key, y = key_of(method), ours[method][0]
            floor = record["floors"][key][1]
            right.plot([floor, times[key]], [y, y], color=COLOURS[key], lw=1, ls=":")
            right.plot(floor, y, "|", color=COLOURS[key], ms=12, mew=1.8)
        base = method_name(results.profile, BASE)
        right.set_xlabel(f"time of a step / {base}'s (tick: floor)")
    figure.tight_layout()
    return figure


def _shorter(record: dict, key: str, than: str) -> str:
    """Whether one step takes less time than another: "holds", "refuted", or "undecided".

    Less is an upper quartile below the other's lower one.
    """
    one, other = record["ratios"][key], record["ratios"][than]
    if one[2] < other[0]:
        return "holds"
    return "refuted" if one[0] > other[2] else "undecided"


_WORDS = {"holds": "shorter than", "refuted": "longer than", "undecided": "not told apart from"}


def finding(results: Results) -> str:
    """What a step costs, and what the stages contribute to accuracy."""
    record, base = step_times.own_or_none(results), method_name(results.profile, BASE)
    if record is None:
        text = f"Step times: not run; `{step_times.command(results)}` measures them. "
    else:
        ratio = {key_of(m): number(record["ratios"][key_of(m)][1]) for m in METHODS}
        than_all = _WORDS[_shorter(record, "only_norm", "all")]
        than_on = _WORDS[_shorter(record, key_of(LATE), "only_norm")]
        text = (
            f"Timed in turns on {timing.hardware(record)}, a step of SAM takes {ratio['all']} "
            f"times as long as one of {base}, a step of SAM-ON {ratio['only_norm']} times, which "
            f"is {than_all} SAM's, and one on stages 2 and 3 (B2+B3) {ratio[key_of(LATE)]} times, "
            f"which is {than_on} SAM-ON's. "
        )
    late, alone = against_on(results)[LATE], against_base(results)[FIRST]
    text += (
        f"In accuracy, {reading(late, 'SAM-ON on stages 2 and 3', 'SAM-ON on all')} "
        f"({points(late)}), and {reading(alone, 'SAM-ON on stage 1 alone', base)} "
        f"({points(alone)})."
    )
    edges = [short(results, m) for m in plan.BLOCKS if results.at_edge(results.cell(m))]
    if edges:
        text += f" The ρ of {listed(edges)} was chosen at the edge of its grid."
    return text


def cheaper(results: Results) -> Answer:
    """SAM-ON is cheaper than SAM, late stages cheaper still at no loss, stage 1 useless (claim 11).

    By the step times of the profile's own network, where a step is shorter than another if its
    upper quartile is below the other's lower one. Holds if SAM-ON's step is shorter than SAM's and
    that of stages 2 and 3 shorter than SAM-ON's, if stages 2 and 3 are at least equivalent to
    SAM-ON in accuracy, and the base optimizer at least equivalent to stage 1 alone. Refuted if one
    of the four is reversed, in accuracy after Holm's correction. How much shorter is not asked:
    that depends on the hardware.

    Raises:
        RecordsMissing: no such step has been timed, or runs are missing.
    """
    record = step_times.own(results)
    base, on = results.cell(BASE), results.cell(ON)
    accuracy = all_of(
        [results.compare(results.cell(LATE), on), results.compare(base, results.cell(FIRST))],
        "",
        strict=False,
    )
    pairs = ("only_norm", "all"), (key_of(LATE), "only_norm")
    order = weakest(_shorter(record, *pair) for pair in pairs)
    verdict = weakest([order, accuracy.verdict])
    times = [number(record["ratios"][k][1]) for k in ("only_norm", "all", key_of(LATE))]
    ours = (
        f"{', '.join(times)} (their order: {order}); B2+B3 − SAM-ON {against_on(results)[LATE]}, "
        f"B1 − {method_name(results.profile, BASE)} {against_base(results)[FIRST]} (accuracy: "
        f"{accuracy.verdict})"
    )
    return Answer(ours, verdict, accuracy.seeds)


TABLES = {
    "cost": table,
    "campaigns": campaign_cost.table,
}
DECIDES = {11: cheaper}
