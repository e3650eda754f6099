"""The flags of the command line: which verbs there are and what they take."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import NoReturn, get_args

from samlib import files
from samlib.bench import KINDS
from samlib.errors import ConfigError

_FOLDERS = (
    "A relative path is meant from the current folder, a default from the project's: the checkout "
    "around the current folder, or else the one samlib is run from."
)
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
    if not 0 < seconds < 1e9:  # 30 years; the system's own timers end at some length
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 45s, 9m or 1.5h")
    return seconds


def workers(text: str) -> int:
    """A number of worker processes, at least one."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of workers >= 1")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """Numbers of worker processes, such as 1,2,4.

    >>> counts("1,2,4")
    (1, 2, 4)
    """
    return tuple(workers(part) for part in text.split(","))


def path(text: str) -> Path:
    """An absolute path that can be asked for."""
    try:
        return files.typed(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _common(parser: argparse.ArgumentParser, *, compute: bool = False) -> None:
    parser.add_argument("--profile", default="quick", help="scale of the study (default: quick)")
    _results(parser, "folder of results; records go to DIR/PROFILE/runs/")
    if compute:
        parser.add_argument(
            "--workers",
            type=workers,
            help="runs at once (default: one per core; cuda: by network; ray: all it has room for)",
        )
        parser.add_argument(
            "--executor",
            choices=["local", "ray"],
            default="local",
            help="local, worker processes here, or ray, a cluster (default: local)",
        )
        _device(parser, default=None, note="the profile's")


def _results(parser: argparse.ArgumentParser, help: str) -> None:
    _folder(parser, "results", f"{help} (default: results)")


def _folder(parser: argparse.ArgumentParser, name: str, help: str) -> None:
    default = files.project_root() / name
    parser.add_argument(f"--{name}", type=path, default=default, metavar="DIR", help=help)


def _device(parser: argparse.ArgumentParser, default: str | None, note: str) -> None:
    parser.add_argument("--device", default=default, help=f"cpu or cuda (default: {note})")
    parser.add_argument("--data", type=path, help="folder of data caches (default: data)")


def _perturbation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--perturbation",
        choices=["worker", "synchronised"],
        default="worker",
        help="under torchrun: each worker's own, or that of the whole batch (default: worker)",
    )


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        said = " ".join(message.split())  # what was typed may hold line breaks
        self.exit(2, f"samlib: {said} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    whole = _Parser(prog="python -m samlib", description="SAM-ON, reproduced.", epilog=_FOLDERS)
    verbs = whole.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=help, description=help, epilog=_FOLDERS)

    p = verb(
        "reproduce",
        "train a whole profile anew, put it in place (replaces DIR/PROFILE as a whole), build "
        "the book",
    )
    _common(p, compute=True)
    _folder(p, "book", "folder for the built book (default: book)")
    p = verb("run", "train only what is missing")
    _common(p, compute=True)
    p.add_argument("--only", metavar="NOTEBOOK", help="only the runs of one notebook")
    p.add_argument("--time-budget", type=duration, help="start nothing that would end after it")
    _perturbation(p)
    p = verb("status", "runs done, missing and diverged, and time left, per notebook")
    _common(p)
    p.add_argument("--watch", action="store_true", help="go on showing it, and what runs now")
    p.add_argument(
        "--every", type=duration, default=2.0, metavar="SECONDS", help="with --watch (default: 2)"
    )
    p = verb("train", "train one configuration and print its record")
    p.add_argument("--profile", default="quick", help="whose base run the flags change")
    p.add_argument("--family", help="which of its models: wrn, resnet, ... (default: the first)")
    p.add_argument(
        "--results", type=path, metavar="DIR", help="also keep record and weights in DIR/PROFILE"
    )
    _device(p, default=None, note="the profile's")
    _perturbation(p)
    _config_flags(p)
    p = verb("prepare", "build a data set's cache")
    p.add_argument("--dataset", help="digits, cifar10, cifar100 or fashion_mnist")
    p.add_argument("--profile", default="quick", help="without --dataset: all it needs")
    p.add_argument("--data", type=path, help="folder of data caches (default: data)")
    p = verb("notebook", "run one notebook with papermill; an unknown parameter is an error")
    p.add_argument("name")
    p.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="a parameter of the notebook; a folder in it is meant from the project's",
    )
    p.add_argument("--output", type=path, help="executed copy (default: build/NAME.ipynb)")
    _common(p)
    p = verb("book", "execute the notebooks from the records and build the book; trains nothing")
    p.add_argument("--profile", help="pages of one profile (default: all that have records)")
    _results(p, "folder of results")
    _folder(p, "book", "folder for the built book (default: book)")
    p = verb("tables", "write the tables made from the records")
    _common(p)
    p = verb("bench", "measure what things cost; records in DIR/bench")
    p.add_argument(
        "what",
        choices=list(KINDS),
        help="; ".join(f"{kind}: {what}" for kind, what in KINDS.items()),
    )
    _results(p, "folder of results")
    group = p.add_argument_group("what is timed", "where not given, as `samlib.bench` says")
    for name, kind, note in (
        ("profile", str, "step, packing: the network of its headline, on its data's size"),
        ("family", str, "step, packing: another of the profile's networks"),
        ("model", str, "step, epoch, augment: one of the zoo at 32 x 32 (default: resnet56)"),
        ("batch-size", int, "step, epoch, augment: images in a batch"),
        ("images", int, "epoch, augment, packing: images in an epoch"),
        ("augment", str, "epoch: none, basic or autoaugment (default: autoaugment)"),
        ("precision", str, "epoch, augment: fp32 or bf16 (default: cuda bf16, cpu fp32)"),
        ("epochs", int, "packing: epochs of a run"),
        ("runs", int, "packing: runs per worker"),
        ("workers", counts, "packing, growth: numbers of worker processes, such as 1,2,4"),
        ("rounds", int, "how often each is timed"),
        ("threads", workers, "CPU threads (default: 1)"),
        ("device", str, "cpu or cuda (default: cpu)"),
    ):
        group.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=note)
    p = verb("readme", "put the headline figure and table of the records into README.md")
    _common(p)
    return whole


def _config_flags(parser: argparse.ArgumentParser) -> None:
    """One flag per field of RunConfig."""
    from samlib.trainer.config import RunConfig

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
