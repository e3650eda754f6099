"""What does it cost? Step times beside their floor and the accuracy they buy; whole campaigns."""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samlib.bench import timing
from samlib.report import campaign_cost, paper, step_times, tidy
from samlib.report.answers import NOT_ANSWERED, Answer, each_of
from samlib.report.figures import COLOURS, MARKERS, key_of, use_style
from samlib.report.names import MODEL_NAMES, method_name
from samlib.report.results import Results
from samlib.report.stats import OPEN, REVERSED, SEEN, Comparison
from samlib.report.step_times import FIRST, LATE, METHODS, short
from samlib.report.text import listed, number
from samlib.report.wording import points
from samlib.study import plan
from samlib.study.methods import BASE, ON, Method


def methods(results: Results) -> list[Method]:
    """The methods that are timed, as far as the profile trains them."""
    return plan.known(results.profile, METHODS)


def behind(results: Results) -> dict[Method, Comparison]:
    """SAM-ON on all stages minus every other method."""
    on = results.cell(ON)
    return {m: results.compare(on, results.cell(m)) for m in methods(results) if m != ON}


def table(results: Results) -> pd.DataFrame:
    """Step time over the base optimizer's, its floor, and accuracy, reported and ours."""
    record, over, rows = step_times.own_or_none(results), behind(results), []
    alone = [LATE] if record and LATE not in methods(results) else []  # timed, not trained
    for method in (*methods(results), *alone):
        key = key_of(method)
        time, accuracy = paper.RUNTIME[key]
        row = {
            "method": method_name(results.profile, method),
            "reported time": time,
            "time": tidy.quartiles(record["ratios"][key] if record else [math.nan] * 3),
            "floor": record["floors"][key][1] if record else math.nan,
            "reported accuracy": tidy.reported(accuracy),
        }
        if method not in alone:
            cell = results.cell(method)
            row["accuracy"] = tidy.at_rho(results, cell)
            row["diverged"] = results.diverged(cell)
        rows.append(row)
    compared = [over.get(method) for method in (*methods(results), *alone)]
    return tidy.judged(rows, "SAM-ON minus it", compared, results.profile.where)


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
        found = {m: (-c.mean, -c.high, -c.low) for m, c in behind(results).items()}
        ours = {m: found.get(m, (0.0, 0.0, 0.0)) for m in methods(results)}
        times = {key: ratio[1] for key, ratio in record["ratios"].items()}
        _panel(right, results, ours, times)
        for method in methods(results)[1:]:
            key, y = key_of(method), ours[method][0]
            floor = record["floors"][key][1]
            right.plot([floor, times[key]], [y, y], color=COLOURS[key], lw=1, ls=":")
            right.plot(floor, y, "|", color=COLOURS[key], ms=12, mew=1.8)
        base = method_name(results.profile, BASE)
        right.set_xlabel(f"time of a step / {base}'s (tick: floor)")
    figure.tight_layout()
    return figure


def _shorter(record: dict, key: str, than: str) -> str:
    """Whether one step takes less time than another: an upper quartile below a lower one."""
    one, other = record["ratios"][key], record["ratios"][than]
    if one[2] < other[0]:
        return SEEN
    return REVERSED if one[0] > other[2] else OPEN


_WORDS = {SEEN: "less than", REVERSED: "more than", OPEN: "not told apart from"}


def finding(results: Results) -> str:
    """What a step costs."""
    record = step_times.own_or_none(results)
    if record is None:
        return f"Step times are not run: `{step_times.command(results)}` measures the times."
    base = method_name(results.profile, BASE)
    time = {key_of(m): number(record["ratios"][key_of(m)][1]) for m in METHODS}
    on, late = _shorter(record, "only_norm", "all"), _shorter(record, key_of(LATE), "only_norm")
    return (
        f"On {timing.hardware(record)}, a step of SAM takes {time['all']} times one of {base}. "
        f"SAM-ON's takes {time['only_norm']} times, {_WORDS[on]} SAM's; on stages 2 and 3 alone "
        f"it takes {time[key_of(LATE)]} times, {_WORDS[late]} SAM-ON's, because the second pass "
        "reuses the activations of the stages that are not perturbed."
    )


def papers_network(results: Results) -> pd.DataFrame:
    """Step times of the paper's network on a GPU beside the reported ones; no rows if not timed."""
    record = step_times.of_the_papers(results)
    rows = [
        {
            "method": method_name(results.profile, method),
            "reported time": paper.RUNTIME[key_of(method)][0],
            "time": tidy.quartiles(record["ratios"][key_of(method)]),
            "floor": record["floors"][key_of(method)][1],
        }
        for method in METHODS[1:]
        if record
    ]
    return tidy.table(rows)


def finding_papers_network(results: Results) -> str:
    """How a step of the paper's network compares with the reported times."""
    record = step_times.of_the_papers(results)
    if record is None:
        command = results.command("bench", "gpu", "--networks", "wrn28_10:128")
        return f"The paper's network is not timed: `{command}` does it on a GPU."
    times = [
        f"{method_name(results.profile, m)} {number(record['ratios'][key_of(m)][1])} × "
        f"(poster {number(paper.RUNTIME[key_of(m)][0])} ×)"
        for m in METHODS[1:]
    ]
    base = method_name(results.profile, BASE)
    return f"{step_times.title(record)}: over the step of {base}, {listed(times)}."


def _three(record: dict) -> str:
    """Steps of SAM-ON, SAM, and stages 2 and 3 over the base optimizer's, in words."""
    times = [number(record["ratios"][k][1]) for k in ("only_norm", "all", key_of(LATE))]
    return "{} × against {} ×; {} × for stages 2 and 3".format(*times)


def cheaper(results: Results) -> Answer:
    """SAM-ON's step is shorter than SAM's, that of stages 2 and 3 shorter still (claim 11a).

    Of the profile's own network, with the times of the paper's beside them where it was timed. How
    much shorter is not asked: that depends on the hardware.

    Raises:
        RecordsMissing: no such step has been timed.
    """
    record = step_times.own(results)
    pairs = ("only_norm", "all"), (key_of(LATE), "only_norm")
    found = {_shorter(record, *pair) for pair in pairs}
    seen = next(word for word in (REVERSED, OPEN, SEEN) if word in found)
    short = _three(record)
    papers = step_times.of_the_papers(results)
    beside = (
        f". The paper's network on {timing.hardware(papers)}: {_three(papers)}" if papers else ""
    )
    return Answer(seen, short + beside, short, where=f"on {timing.hardware(record)}")


def late_stages(results: Results) -> Answer:
    """Stages 2 and 3 alone at least as good as SAM-ON on all (claim 11b)."""
    return _stages(results, LATE, ON)


def first_stage(results: Results) -> Answer:
    """The base optimizer at least as good as SAM-ON on stage 1 alone (claim 11c)."""
    return _stages(results, BASE, FIRST)


def _stages(results: Results, better: Method, worse: Method) -> Answer:
    if not {better, worse} <= {*methods(results)}:
        return NOT_ANSWERED
    found = results.compare(results.cell(better), results.cell(worse))
    names = (method_name(results.profile, method) for method in (better, worse))
    return each_of([found], f"{' − '.join(names)}: {points(found)}", strict=False)


TABLES = {
    "cost": table,
    "papers_network": papers_network,
    "campaigns": campaign_cost.table,
}
DECIDES = {"11a": cheaper, "11b": late_stages, "11c": first_stage}
