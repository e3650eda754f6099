"""The flags of the command line: which verbs there are and what they take."""

import argparse
import re
from dataclasses import fields
from pathlib import Path
from typing import NoReturn, cast, get_args

from samlib import files
from samlib.bench import KINDS
from samlib.errors import ConfigError

_FOLDERS = (
    "Paths you type are relative to the current directory; default paths are relative to the "
    "project root: the checkout around the current directory or around samlib, if there is one."
)
_ATTRIBUTE = r"(?m)^ {8}(\w+): (.+(?:\n {12}.+)*)"  # of a docstring: its name and what it is
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


def networks(text: str) -> tuple[tuple[str, int], ...]:
    """Models of the zoo with batch sizes, such as resnet56:128,vit_t:64.

    >>> networks("resnet56:128,vit_t:64")
    (('resnet56', 128), ('vit_t', 64))
    """
    parts = [part.rpartition(":") for part in text.split(",")]
    if not all(model and size.isdigit() for model, _, size in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as resnet56:128,vit_t:64")
    return tuple((model, int(size)) for model, _, size in parts)


def path(text: str) -> Path:
    """An absolute path, checked to be usable."""
    try:
        return files.typed(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _common(parser: argparse.ArgumentParser, *, compute: bool = False) -> None:
    parser.add_argument("--profile", default="quick", help="scale of the study (default: quick)")
    _results(parser, "results folder; records go to DIR/PROFILE/runs/")
    if compute:
        parser.add_argument(
            "--workers",
            type=workers,
            help="runs at once (default: one per core; cuda: by network; ray: as many as fit)",
        )
        parser.add_argument(
            "--executor",
            choices=["local", "ray"],
            default="local",
            help="local: processes on this machine; ray: tasks of a Ray cluster (default: local)",
        )
        _device(parser, default=None, note="the profile's")


def _results(parser: argparse.ArgumentParser, help: str) -> None:
    _folder(parser, "results", f"{help} (default: results)")


def _folder(parser: argparse.ArgumentParser, name: str, help: str) -> None:
    default = files.project_root() / name
    parser.add_argument(f"--{name}", type=path, default=default, metavar="DIR", help=help)


def device(text: str) -> str:
    """The name of a device; a CPU has no number."""
    return "cpu" if text.startswith("cpu:") else text


def _device(parser: argparse.ArgumentParser, default: str | None, note: str) -> None:
    parser.add_argument(
        "--device", type=device, default=default, help=f"cpu or cuda (default: {note})"
    )
    parser.add_argument("--data", type=path, help="folder of data caches (default: data)")


def _perturbation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--perturbation",
        choices=["worker", "synchronised"],
        default="worker",
        help="under torchrun: along each worker's gradient, or the whole batch's (default: worker)",
    )


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, without the usage before it."""

    def parse_args(self, args=None, namespace=None):
        """As the base class, but a flag too many points to the help of its verb."""
        found, more = self.parse_known_args(args, namespace)
        if more:
            said = " ".join(" ".join(more).split())
            self.exit(2, f"samlib: unknown: {said} (see {self.prog} {found.verb} --help)\n")
        return found

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
        "train a whole profile anew, replace DIR/PROFILE once the new runs are complete, and build "
        "the book",
    )
    _common(p, compute=True)
    _folder(p, "book", "folder for the built book (default: book)")
    p = verb("run", "train and measure only what has no record yet")
    _common(p, compute=True)
    p.add_argument("--only", metavar="NOTEBOOK", help="only the runs of one chapter")
    p.add_argument(
        "--time-budget", type=duration, help="start no run that would end after this time"
    )
    _perturbation(p)
    p = verb("status", "runs done, missing and diverged, and time left, per chapter")
    _common(p)
    p.add_argument("--watch", action="store_true", help="keep the status in view, with the jobs")
    p.add_argument(
        "--every", type=duration, default=2.0, metavar="SECONDS", help="with --watch (default: 2)"
    )
    p = verb("train", "train one configuration and print its record")
    p.add_argument("--profile", default="quick", help="profile of the base configuration")
    p.add_argument(
        "--problem", help="network and recipe: wrn, resnet, ... (default: the headline's)"
    )
    p.add_argument(
        "--results", type=path, metavar="DIR", help="also write record and weights to DIR/PROFILE"
    )
    _device(p, default=None, note="the profile's")
    _perturbation(p)
    _config_flags(p)
    p = verb("prepare", "build a data set's cache")
    p.add_argument(
        "--dataset", help="digits, cifar10, cifar100, fashion_mnist; imagenet: checks its folders"
    )
    p.add_argument("--profile", default="quick", help="without --dataset: all of the profile's")
    p.add_argument("--data", type=path, help="folder of data caches (default: data)")
    p = verb("notebook", "run one notebook with papermill; an unknown parameter is an error")
    p.add_argument("name")
    p.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="parameter of the notebook; paths are relative to the project root",
    )
    p.add_argument("--output", type=path, help="executed copy (default: build/NAME.ipynb)")
    _common(p)
    p.set_defaults(profile=None, results=None)  # the notebook's own, which not every one has
    p = verb("book", "execute the notebooks from the records and build the book; trains nothing")
    p.add_argument("--profile", help="pages of one profile (default: every profile with records)")
    _results(p, "results folder")
    _folder(p, "book", "folder for the built book (default: book)")
    p = verb("tables", "write the tables of a profile as CSV files")
    _common(p)
    p = verb("bench", "time steps, epochs and augmentation; records go to DIR/bench")
    p.add_argument(
        "what",
        nargs="?",
        choices=list(KINDS),
        help="; ".join(f"{kind}: {what}" for kind, what in KINDS.items()) + " (default: gpu)",
    )
    _results(p, "results folder")
    group = p.add_argument_group("what is timed", "each flag with the kinds of bench that take it")
    for name, kind, note in (
        (
            "profile",
            str,
            "step, family, packing: the profile's headline network, at its image size",
        ),
        ("problem", str, "step, packing: another network of the profile"),
        ("model", str, "step, epoch, augment: a model at 32 x 32 pixels (default: resnet56)"),
        ("batch-size", int, "step, epoch, augment: images in a batch"),
        ("networks", networks, "gpu: models and batch sizes, such as resnet56:128,vit_t:64"),
        ("images", int, "epoch, augment, packing, gpu: images in an epoch"),
        ("augment", str, "epoch: none, basic or autoaugment (default: autoaugment)"),
        ("precision", str, "step, epoch, augment: fp32 or bf16 (default: cuda bf16, cpu fp32)"),
        ("epochs", int, "packing: epochs of a run"),
        ("runs", int, "packing: runs per worker"),
        ("workers", counts, "packing, growth: numbers of worker processes, such as 1,2,4"),
        ("rounds", int, "number of times that each contender is timed"),
        ("threads", workers, "CPU threads (default: 1)"),
        ("device", device, "cpu or cuda (default: cpu; gpu: cuda)"),
    ):
        group.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=note)
    p = verb("readme", "put the headline figure and table of the records into README.md")
    _common(p)
    p.set_defaults(profile=None)  # the one nearest to the paper that has records
    return whole


def _config_flags(parser: argparse.ArgumentParser) -> None:
    """One flag per field of RunConfig."""
    from samlib.trainer.config import RunConfig

    first, _, rest = cast(str, RunConfig.__doc__).partition("\n")
    group = parser.add_argument_group("configuration", f"{first} Default: the profile's values.")
    said = {n: " ".join(t.split()) for n, t in re.findall(_ATTRIBUTE, rest)}
    for field in fields(RunConfig):
        # `int | None` on the command line is an int: None is what is not given.
        kind = field.type if isinstance(field.type, type) else get_args(field.type)[0]
        group.add_argument(
            "--" + field.name.replace("_", "-"),
            type=kind,
            default=argparse.SUPPRESS,
            help=said[field.name].replace("%", "%%"),
        )
