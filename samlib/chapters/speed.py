"""How near is the trainer to its limit? What was tried, predicted and measured; what is left."""

import statistics
from collections.abc import Callable
from operator import itemgetter

import pandas as pd

from samlib.bench import timing
from samlib.report import step_times
from samlib.report.figures import key_of
from samlib.report.names import MODEL_NAMES
from samlib.report.results import Results
from samlib.report.stats import NOT_RUN
from samlib.report.step_times import LATE, PEER, quartiles, short, title
from samlib.report.wording import listed, number
from samlib.study.methods import ALL, ON

NO_RECORD = pd.DataFrame([{"timed": NOT_RUN.verdict}])


def _read(results: Results, kind: str) -> list[dict]:
    return timing.read(results.folder.parent, kind)


def ideas(results: Results) -> pd.DataFrame:
    """Idea by idea, what it should make of a step by the times of its pieces, and what it makes.

    Times are those of the base optimizer's step. The prediction is the sum of the pieces that the
    idea leaves: two full gradients; the first one to the mask alone; less what is kept.
    """
    rows = []
    for record in step_times.timed(results):
        took = {name: median for name, (_, median, _) in record["pieces"].items()}
        base = record["seconds"]["base"][1]
        plain = took["forward and backward"] + took["optimizer"]
        late = key_of(LATE)
        kept = took.get(f"reused by {late}", 0.0)
        masked = {m: plain + took[f"gradient of {m}"] for m in ("all", "only_norm", late)}
        measured = {name: quartiles(ratio) for name, ratio in record["ratios"].items()}
        for idea, predicted, found in (
            ("all gradients, twice (a peer)", masked["all"], measured.get(PEER, "–")),
            (f"the same here ({short(results, ALL)})", masked["all"], measured["all"]),
            (f"first gradient to {short(results, ON)}'s mask", masked["only_norm"], None),
            (f"first gradient to {short(results, LATE)}", masked[late], "–"),
            ("… and activations in front of it kept", masked[late] - kept, measured[late]),
        ):
            rows.append(
                {
                    "timed": title(record),
                    "what a step computes": idea,
                    "predicted": number(predicted / base),
                    "measured": measured["only_norm"] if found is None else found,
                }
            )
    return pd.DataFrame(rows) if rows else NO_RECORD


def _network(record: dict) -> str:
    """Network, batch, precision, augmentation and hardware of a record."""
    n, found = record["network"], record["provenance"]
    extra = f", {n['augment']}" if "augment" in n else ""
    where = found["gpu"] or found["processor"]
    return (
        f"{MODEL_NAMES[n['model']]}, batch {n['batch_size']}, {n['precision']}{extra}, on {where}"
    )


def epochs(results: Results) -> pd.DataFrame:
    """An epoch of the base optimizer: ours, a loop as one would write it, and the device's limit.

    The limit is the rate of products of large matrices in the precision of the run.
    """
    rows = [
        {
            "timed": _network(record),
            "images": f"{record['images']:,}",
            "ours, images/s": f"{record['images_per_second']['ours']:,.0f}",
            "plain loop, images/s": f"{record['images_per_second']['plain loop']:,.0f}",
            "plain loop / ours": quartiles(record["ratios"]["plain loop"]),
            "control": number(record["ratios"]["ours again"][1]),
            "augmentation": _share(record, "augmentation"),
            "share of the matrix rate": f"{100 * record['utilisation'][1]:.0f} %",
        }
        for record in _read(results, "epoch")
    ]
    return pd.DataFrame(rows) if rows else NO_RECORD


def _share(record: dict, part: str) -> str:
    return f"{100 * record['parts'][part][1] / record['seconds']['ours'][1]:.1f} %"


def augmentation(results: Results) -> pd.DataFrame:
    """Augmenting images of 32 x 32 pixels: ours for all at once, Pillow's one by one."""
    rows = [
        {
            "timed": _network(record),
            "augmentation": name,
            "ours, images/s": f"{record['images_per_second'][name]:,.0f}",
            "Pillow, images/s": f"{record['images_per_second'][f'{name} by Pillow']:,.0f}",
            "Pillow / ours": quartiles(ratio),
            "share of an epoch": f"{100 * record['share_of_epoch'][name][1]:.1f} %",
        }
        for record in _read(results, "augment")
        for name, ratio in record["ratios"].items()
    ]
    return pd.DataFrame(rows) if rows else NO_RECORD


def packing(results: Results) -> pd.DataFrame:
    """Runs per hour by the number of processes that share a device."""
    rows = [
        {
            "timed": _network(record),
            "workers": entry["workers"],
            "runs per hour": "{1:,.0f} [{0:,.0f}, {2:,.0f}]".format(*entry["runs_per_hour"]),
            "over one worker": quartiles(entry["gain"]),
            **_milliseconds(entry["seconds"]),
        }
        for record in _read(results, "packing")
        for entry in record["packed"]
    ]
    return pd.DataFrame(rows) if rows else NO_RECORD


def _milliseconds(seconds: dict[str, float]) -> dict[str, str]:
    return {f"{what}, ms": f"{1000 * took:,.0f}" for what, took in seconds.items()}


def growth(results: Results) -> pd.DataFrame:
    """Short runs per hour by workers, here and as tasks of a cluster, and where their time goes."""
    rows = [
        {
            "executor": {"local": "worker processes", "ray": "nodes of a Ray cluster"}.get(
                campaign["executor"], campaign["executor"]
            ),
            "workers": campaign["workers"],
            "runs": campaign["runs"],
            "start, s": number(campaign["start"], 1),
            "runs per hour": f"{campaign['runs_per_hour']:,.0f}",
            **_milliseconds(campaign["seconds"]),
        }
        for record in _read(results, "growth")
        for campaign in record["campaigns"]
    ]
    return pd.DataFrame(rows) if rows else NO_RECORD


def reading(results: Results) -> pd.DataFrame:
    """Reading records and making a table from them, by how many there are."""
    rows = [
        {
            "records": f"{size['records']:,}",
            "size of one, kB": number(size["bytes_per_record"] / 1024, 1),
            "read in, s": number(size["seconds"]),
            "memory, MB": "–" if size["memory"] is None else f"{size['memory'] / 2**20:,.0f}",
            "rows of the table": f"{size['table_rows']:,}",
            "table in, s": number(size["table_seconds"]),
        }
        for record in _read(results, "growth")
        for size in record["reading"]
    ]
    return pd.DataFrame(rows) if rows else NO_RECORD


def _not_run(kind: str) -> str:
    return f"Not run; `python -m samlib bench {kind}` measures it."


def epochs_finding(results: Results) -> str:
    """How much faster than the plain loop, network by network."""
    found = _read(results, "epoch")
    if not found:
        return _not_run("epoch")
    parts = [f"{number(r['ratios']['plain loop'][1])} ({_network(r)})" for r in found]
    text = f"The plain loop takes {listed(parts)} times as long as ours."
    if not any(record["provenance"]["gpu"] for record in found):
        text += (
            " No GPU was timed. On a CPU nearly all of an epoch is convolutions, which both"
            " compute, and the plain loop's workers have the other core: what a GPU gains by"
            " resident data, replayed graphs and bf16 cannot be seen here."
        )
    return text


def ideas_finding(results: Results) -> str:
    """How good the predictions are, and what is left to the floor."""
    found = step_times.timed(results)
    if not found:
        return _not_run("step")

    def over(key: str) -> list[float]:
        return [record["ratios"][key][1] / record["floors"][key][1] for record in found]

    def spread(values: list[float]) -> str:
        low, high = (number(value) for value in (min(values), max(values)))
        return low if low == high else f"{low} to {high}"

    return (
        f"Over its floor SAM-ON's step takes {spread(over('only_norm'))} times, "
        f"{short(results, LATE)}'s {spread(over(key_of(LATE)))} times. What is left above the "
        "floor is the perturbation itself and, where activations are kept, the second update of "
        "the running statistics, for which the norm layers in front see their inputs once more."
    )


def growth_finding(results: Results) -> str:
    """What a run costs beside its training, and how fast records become a table."""
    found = _read(results, "growth")
    if not found:
        return _not_run("growth")
    around = [c["seconds"]["around the run"] for r in found for c in r["campaigns"]]
    most = max((size for record in found for size in record["reading"]), key=itemgetter("records"))
    return (
        f"Around a run a campaign spends {1000 * statistics.median(around):.0f} ms: handing it "
        f"out, writing and reading its record. {most['records']:,} records are read in "
        f"{number(most['seconds'], 1)} s, and a table is made of them in "
        f"{number(most['table_seconds'], 1)} s."
    )


def timed_on(results: Results) -> list[dict]:
    """Every record this page is made from."""
    kinds = ("step", "epoch", "augment", "packing", "growth")
    return [record for kind in kinds for record in _read(results, kind)]


TABLES: dict[str, Callable[[Results], pd.DataFrame]] = {
    "step_ideas": ideas,
    "step_times": step_times.table,
    "step_pieces": step_times.pieces,
    "step_memory": step_times.memory,
    "epochs": epochs,
    "augmentation": augmentation,
    "packing": packing,
    "growth": growth,
    "reading": reading,
}
DECIDES: dict[int, Callable] = {}
