"""The command line: `python -m samlib --help`."""

import argparse
import json
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn, get_args

from .errors import SamlibError, choose

_DURATION = {"s": 1, "m": 60, "h": 3600}


def duration(text: str) -> float:
    """Seconds in a duration such as 45s, 9m, 1.5h or 90.

    >>> duration("9m"), duration("90")
    (540.0, 90.0)
    """
    unit = _DURATION.get(text[-1:])
    try:
        seconds = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 45s, 9m or 1.5h")
    return seconds


def workers(text: str) -> int:
    """A number of worker processes, at least one."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of workers >= 1")
    return int(text)


def _common(parser: argparse.ArgumentParser, *, compute: bool = False) -> None:
    parser.add_argument("--profile", default="quick", help="scale of the study (default: quick)")
    parser.add_argument(
        "--results", default="results", help="folder of results; records go to DIR/PROFILE/runs/"
    )
    if compute:
        parser.add_argument(
            "--workers", type=workers, help="worker processes (default: one per core; cuda: one)"
        )
        _device(parser, default=None, note="the profile's")


def _device(parser: argparse.ArgumentParser, default: str | None, note: str) -> None:
    parser.add_argument("--device", default=default, help=f"cpu or cuda (default: {note})")
    parser.add_argument("--data", type=Path, help="folder of data caches (default: data)")


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"samlib: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m samlib", description="SAM-ON, reproduced.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=help, description=help)

    p = verb("reproduce", "train a whole profile anew, put it in place, build the book")
    _common(p, compute=True)
    p.add_argument("--book", default="book", help="folder for the built book (default: book)")
    p = verb("run", "train only what is missing")
    _common(p, compute=True)
    p.add_argument("--only", metavar="NOTEBOOK", help="only the runs of one notebook")
    p.add_argument("--time-budget", type=duration, help="start nothing that would end after it")
    p = verb("status", "runs done, missing and diverged, and time left, per notebook")
    _common(p)
    p = verb("train", "train one configuration and print its record")
    p.add_argument("--profile", default="quick", help="whose base run the flags change")
    p.add_argument("--family", help="which of its models: wrn, resnet, ... (default: the first)")
    p.add_argument("--results", help="also keep record and weights in DIR/PROFILE")
    _device(p, default=None, note="the profile's")
    _config_flags(p)
    p = verb("prepare", "build a data set's cache")
    p.add_argument("--dataset", help="digits, cifar10, cifar100 or fashion_mnist")
    p.add_argument("--profile", default="quick", help="without --dataset: all it needs")
    p.add_argument("--data", type=Path, help="folder of data caches (default: data)")
    p = verb("notebook", "run one notebook with papermill; an unknown parameter is an error")
    p.add_argument("name")
    p.add_argument("-p", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    p.add_argument("--output", type=Path, help="executed copy (default: build/NAME.ipynb)")
    _common(p)
    p = verb("book", "execute the notebooks from the records and build the book; trains nothing")
    _common(p)
    p.add_argument("--book", default="book", help="folder for the built book (default: book)")
    p = verb("tables", "write the tables made from the records")
    _common(p)
    p = verb("bench", "time the step against its floor and its peers; records in DIR/bench")
    p.add_argument("what", choices=["step"])
    p.add_argument("--results", default="results", help="folder of results")
    for name, default in (("model", "resnet56"), ("batch-size", 32), ("rounds", 20)):
        p.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    p.add_argument("--threads", type=workers, default=1, help="CPU threads (default: 1)")
    p.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    p = verb("readme", "put the headline figure and table of the records into README.md")
    _common(p)
    return parser


def _config_flags(parser: argparse.ArgumentParser) -> None:
    """One flag per field of RunConfig."""
    from .config import RunConfig

    group = parser.add_argument_group("configuration", RunConfig.__doc__.split("\n")[0])
    for field in fields(RunConfig):
        # `int | None` on the command line is an int: None is what is not given.
        kind = field.type if isinstance(field.type, type) else get_args(field.type)[0]
        group.add_argument(
            "--" + field.name.replace("_", "-"),
            type=kind,
            default=argparse.SUPPRESS,
            help="default: the profile's",
        )


def _reproduce(args: argparse.Namespace) -> int:
    from . import book, campaign, readme, report, tables

    profile, results = _profile(args)
    _check_data(args, profile)
    new, old = campaign.fresh(results, profile.name), campaign.place(results, profile.name)
    with new.locked():
        campaign.check_origin(new)
        outcome = _bring(args, profile, new)
        if outcome.failed or outcome.skipped:
            return _summary(outcome)
        print(report.changes(old.runs, new.runs))
        with old.locked():
            campaign.put_in_place(new, results, profile.name)
    try:
        tables.write(profile.name, results)
        readme.write_figure(profile.name, results)
        index = book.build(profile.name, results, _resolve(args.book))
    except SamlibError as error:
        again = f"python -m samlib book --profile {profile.name} --results {results}"
        raise type(error)(f"{error}; the runs are complete and in place: `{again}`") from error
    print(tables.headline_text(profile.name, results))
    print(f"\nThe book: {index}")
    return 0


def _check_data(args: argparse.Namespace, profile) -> None:
    """Have a missing device or data set told once, not once per run."""
    from . import data
    from .train import usable_device

    usable_device(args.device or profile.device)
    for name in {base.dataset for base in profile.bases.values()}:
        data.load(name, args.data)


def _run(args: argparse.Namespace) -> int:
    from . import campaign

    profile, results = _profile(args)
    _check_data(args, profile)
    target = campaign.place(results, profile.name)
    with target.locked():
        return _summary(_bring(args, profile, target))


def _bring(args: argparse.Namespace, profile, target):
    from .runner import bring_up_to_date, default_workers
    from .study import notebook_cells

    only = getattr(args, "only", None)
    device = args.device or profile.device
    return bring_up_to_date(
        notebook_cells(profile, only),
        target,
        workers=args.workers or default_workers(device),
        device=device,
        data_dir=args.data,
        time_budget=getattr(args, "time_budget", None),
    )


def _summary(outcome) -> int:
    for run_id, reason in outcome.failed.items():
        print(f"failed: {run_id}: {reason}", file=sys.stderr)
    if outcome.skipped:
        print(
            f"{len(outcome.skipped)} runs would end after the time budget and were not started; "
            "the same command continues"
        )
    print(f"{len(outcome.done)} runs done, {len(outcome.failed)} failed")
    return 1 if outcome.failed else 0


def _status(args: argparse.Namespace) -> int:
    from . import report

    profile, results = _profile(args)
    print(report.status(profile, results))
    return 0


def _train(args: argparse.Namespace) -> int:
    from . import campaign, profiles, records
    from .config import RunConfig
    from .train import Run, train

    profile = profiles.get(args.profile)
    family = choose("family", args.family or profile.headline, profile.bases)
    names = {field.name for field in fields(RunConfig)}
    given = {k: v for k, v in vars(args).items() if k in names}
    config = profile.bases[family].replace(**given)
    kept = campaign.place(_resolve(args.results), profile.name) if args.results else None

    def on_epoch(run: Run) -> None:
        loss, accuracy = run.curves["train_loss"][-1], run.curves["test_accuracy"][-1]
        shown = "diverged" if loss is None else f"loss {loss:.4f}"
        tested = "" if accuracy is None else f", test accuracy {accuracy:.2f} %"
        print(f"epoch {run.epoch}/{config.epochs}: {shown}{tested}", file=sys.stderr)

    record = train(
        config,
        device=args.device or profile.device,
        data_dir=args.data,
        weights=kept and kept.weights(config.run_id),
        on_epoch=on_epoch,
    )
    if kept:
        records.write(kept.runs, record)
    print(json.dumps(record))
    return 0


def _prepare(args: argparse.Namespace) -> int:
    from . import datasets, profiles

    bases = profiles.get(args.profile).bases.values()
    for name in [args.dataset] if args.dataset else sorted({base.dataset for base in bases}):
        path = datasets.prepare(name, args.data)
        print(f"{name}: {path or 'comes with scikit-learn, nothing to prepare'}")
    return 0


def _notebook(args: argparse.Namespace) -> int:
    from . import notebooks

    declared = notebooks.parameters(args.name)
    given = {k: getattr(args, k) for k in ("profile", "results") if k in declared}
    for key, value in args.p:
        try:
            given[key] = json.loads(value)
        except ValueError:
            given[key] = value
    output = args.output or Path("build") / f"{args.name}.ipynb"
    print(notebooks.run(args.name, output, given))
    return 0


def _book(args: argparse.Namespace) -> int:
    from . import book

    profile, results = _profile(args)
    print(f"The book: {book.build(profile.name, results, _resolve(args.book))}")
    return 0


def _tables(args: argparse.Namespace) -> int:
    from . import tables

    profile, results = _profile(args)
    for path in tables.write(profile.name, results):
        print(path)
    return 0


def _bench(args: argparse.Namespace) -> int:
    from . import bench

    names = [field.name for field in fields(bench.Setting)]
    setting = bench.Setting(**{name: getattr(args, name) for name in names})
    record, path = bench.run(setting, _resolve(args.results))
    print(bench.table(record))
    print(path)
    return 0


def _readme(args: argparse.Namespace) -> int:
    from . import readme
    from .paths import project_root

    profile, results = _profile(args)
    readme.update(profile.name, results, project_root() / "README.md")
    return 0


def _resolve(path: str) -> Path:
    from .paths import resolve

    return resolve(path)


def _profile(args: argparse.Namespace):
    from . import profiles

    return profiles.get(args.profile), _resolve(args.results)


VERBS = {
    "reproduce": _reproduce,
    "run": _run,
    "status": _status,
    "train": _train,
    "prepare": _prepare,
    "notebook": _notebook,
    "book": _book,
    "tables": _tables,
    "readme": _readme,
    "bench": _bench,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 1 a run failed, 2 a user's mistake."""
    args = _parser().parse_args(arguments)
    warnings.showwarning = lambda message, *rest: print(f"warning: {message}", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that workers are ended, too
    try:
        return VERBS[args.verb](args)
    except SamlibError as error:
        print(f"samlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsamlib: interrupted; finished runs are kept, the same command continues")
        return 130


if __name__ == "__main__":
    sys.exit(main())
