"""How near is the trainer to its limit? What was tried, predicted and measured; what is left."""

import math
import statistics
from collections.abc import Callable
from operator import itemgetter

import pandas as pd

from samlib.bench import timing
from samlib.report import step_times, tidy
from samlib.report.figures import key_of
from samlib.report.names import MODEL_NAMES, method_name
from samlib.report.results import Results
from samlib.report.step_times import LATE, PEER, short, title
from samlib.report.text import listed, number
from samlib.study.methods import ALL, BASE, ON


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
        measured = {name: tidy.quartiles(ratio) for name, ratio in record["ratios"].items()}
        for idea, predicted, found in (
            ("all gradients, twice (a peer)", masked["all"], measured.get(PEER)),
            (f"the same here ({short(results, ALL)})", masked["all"], measured["all"]),
            (
                f"first gradient to {short(results, ON)}'s mask",
                masked["only_norm"],
                measured["only_norm"],
            ),
            (f"first gradient to {short(results, LATE)}", masked[late], None),
            ("… and activations in front of it kept", masked[late] - kept, measured[late]),
        ):
            rows.append(
                {
                    "timed": title(record),
                    "what a step computes": idea,
                    "predicted": predicted / base,
                    "measured": found,
                }
            )
    return tidy.table(rows)


def replays(results: Results) -> pd.DataFrame:
    """On a GPU: steps replayed as CUDA graphs, and the same steps launched from Python."""
    rows = []
    for record in step_times.timed(results):
        launched = record.get("plain_seconds", {})
        for method in (BASE, ALL, ON) if launched else ():
            replayed, plain = (s[key_of(method)][1] for s in (record["seconds"], launched))
            rows.append(
                {
                    "timed": title(record),
                    "step": method_name(results.profile, method),
                    "replayed, ms": 1000 * replayed,
                    "from Python, ms": 1000 * plain,
                    "from Python / replayed": plain / replayed,
                    "share of the matrix rate": {
                        "percent": 100 * record["utilisation"][key_of(method)][1]
                    },
                }
            )
    return tidy.table(rows)


def replays_finding(results: Results) -> str:
    """How much a replay saves, by network."""
    found = [record for record in step_times.timed(results) if record.get("plain_seconds")]
    if not found:
        command = results.command("bench", "gpu")
        return f"No step was replayed: that needs a GPU, and `{command}` times the steps there."
    key = key_of(ON)
    parts = [
        f"{number(r['plain_seconds'][key][1] / r['seconds'][key][1])} ({title(r)})" for r in found
    ]
    return (
        f"Launched from Python, a step of SAM-ON takes {listed(parts)} times as long as replayed."
    )


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
            "images": record["images"],
            "ours, images/s": record["images_per_second"]["ours"],
            "plain loop, images/s": record["images_per_second"]["plain loop"],
            "plain loop / ours": tidy.quartiles(record["ratios"]["plain loop"]),
            "control": record["ratios"]["ours again"][1],
            "augmentation": {"percent": _share(record, "augmentation")},
            "share of the matrix rate": {"percent": 100 * record["utilisation"][1]},
        }
        for record in _read(results, "epoch")
    ]
    return tidy.table(rows)


def _share(record: dict, part: str) -> float:
    return 100 * record["parts"][part][1] / record["seconds"]["ours"][1]


def augmentation(results: Results) -> pd.DataFrame:
    """Augmenting images of 32 x 32 pixels: ours for all at once, Pillow's one by one."""
    rows = [
        {
            "timed": _network(record),
            "augmentation": name,
            "ours, images/s": record["images_per_second"][name],
            "Pillow, images/s": record["images_per_second"][f"{name} by Pillow"],
            "Pillow / ours": tidy.quartiles(ratio),
            "share of an epoch": {"percent": 100 * record["share_of_epoch"][name][1]},
        }
        for record in _read(results, "augment")
        for name, ratio in record["ratios"].items()
    ]
    return tidy.table(rows)


def packing(results: Results) -> pd.DataFrame:
    """Runs per hour by the number of processes that share a device."""
    rows = [
        {
            "timed": _network(record),
            "workers": entry["workers"],
            "runs per hour": tidy.quartiles(entry["runs_per_hour"]),
            "over one worker": tidy.quartiles(entry["gain"]),
            **_milliseconds(entry["seconds"]),
        }
        for record in _read(results, "packing")
        for entry in record["packed"]
    ]
    return tidy.table(rows)


def _milliseconds(seconds: dict[str, float]) -> dict[str, float]:
    return {f"{what}, ms": 1000 * took for what, took in seconds.items()}


def growth(results: Results) -> pd.DataFrame:
    """Short runs per hour by workers, here and as tasks of a cluster, and where their time goes."""
    rows = [
        {
            "executor": {"local": "worker processes", "ray": "nodes of a Ray cluster"}.get(
                campaign["executor"], campaign["executor"]
            ),
            "workers": campaign["workers"],
            "runs": campaign["runs"],
            "start, s": campaign["start"],
            "runs per hour": campaign["runs_per_hour"],
            **_milliseconds(campaign["seconds"]),
        }
        for record in _read(results, "growth")
        for campaign in record["campaigns"]
    ]
    return tidy.table(rows)


def reading(results: Results) -> pd.DataFrame:
    """Reading records and making a table from them, by how many there are."""
    rows = [
        {
            "records": size["records"],
            "size of one, kB": size["bytes_per_record"] / 1024,
            "read in, s": size["seconds"],
            "memory, MB": math.nan if size["memory"] is None else size["memory"] / 2**20,
            "rows of the table": size["table_rows"],
            "table in, s": size["table_seconds"],
        }
        for record in _read(results, "growth")
        for size in record["reading"]
    ]
    return tidy.table(rows)


def _not_run(results: Results, kind: str) -> str:
    return f"Not run; `{results.command('bench', kind)}` measures it."


def epochs_finding(results: Results) -> str:
    """How much faster than the plain loop, network by network."""
    found = _read(results, "epoch")
    if not found:
        return _not_run(results, "epoch")
    parts = [f"{number(r['ratios']['plain loop'][1])} ({_network(r)})" for r in found]
    text = f"The plain loop takes {listed(parts)} times as long as the trainer."
    if not any(record["provenance"]["gpu"] for record in found):
        text += (
            " No GPU was timed. On a CPU convolutions take nearly all of an epoch in both"
            " programs, and the plain loop's workers have the other core. The gain from resident"
            " data, replayed graphs and bf16 on a GPU cannot be seen here."
        )
    return text


def ideas_finding(results: Results) -> str:
    """How good the predictions are, and what is left to the floor."""
    found = step_times.timed(results)
    if not found:
        return _not_run(results, "step")

    def over(key: str) -> list[float]:
        return [record["ratios"][key][1] / record["floors"][key][1] for record in found]

    def spread(values: list[float]) -> str:
        low, high = (number(value) for value in (min(values), max(values)))
        return low if low == high else f"{low} to {high}"

    return (
        f"Relative to its floor, SAM-ON's step takes {spread(over('only_norm'))} times, "
        f"{short(results, LATE)}'s {spread(over(key_of(LATE)))} times. The rest above the "
        "floor is the perturbation and, where activations are kept, the second update of the "
        "running statistics, for which the norm layers in front see their inputs once more."
    )


def growth_finding(results: Results) -> str:
    """What a run costs beside its training, and how fast records become a table."""
    found = _read(results, "growth")
    if not found:
        return _not_run(results, "growth")
    around = [c["seconds"]["around the run"] for r in found for c in r["campaigns"]]
    most = max((size for record in found for size in record["reading"]), key=itemgetter("records"))
    return (
        f"A campaign spends {1000 * statistics.median(around):.0f} ms around a run: to start the "
        f"run, and to write and read its record. {most['records']:,} records are read in "
        f"{number(most['seconds'], '.1f')} s, and a table of the records is made in "
        f"{number(most['table_seconds'], '.1f')} s."
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
    "replays": replays,
    "epochs": epochs,
    "augmentation": augmentation,
    "packing": packing,
    "growth": growth,
    "reading": reading,
}
DECIDES: dict[str, Callable] = {}
