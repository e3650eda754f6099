"""What each verb of the command line does; heavy imports wait until a verb needs them."""

import argparse
import json
from dataclasses import fields

from samlib.errors import ConfigError, choose
from samlib.extras import require


def _reproduce(args: argparse.Namespace) -> int:
    from samlib.cli import run

    return run.reproduce(args, *_profile(args))


def _run(args: argparse.Namespace) -> int:
    from samlib.cli import run

    return run.run(args, *_profile(args))


def _status(args: argparse.Namespace) -> int:
    from samlib.cli import status, watch

    profile, results = _profile(args)
    if not results.is_dir():
        raise ConfigError(f"there is no folder {results}: --results is where PROFILE/runs lies")
    if args.watch:
        return watch.watch(profile, results, every=args.every)
    print(status.status(profile, results))
    return 0


def _train(args: argparse.Namespace) -> int:
    from samlib.cli import train
    from samlib.records import results_folder
    from samlib.trainer.config import NO_PERTURBATION, RunConfig

    train.check_alone(args.perturbation)
    profile, results = _profile(args)
    problem = choose("problem", args.problem or profile.headline, profile.bases)
    names = {field.name for field in fields(RunConfig)}
    given = {k: v for k, v in vars(args).items() if k in names}
    config = profile.bases[problem].replace(**given)
    if config.geometry != NO_PERTURBATION and not config.rho and "rho" not in given:
        raise ConfigError(
            f"geometry {config.geometry} needs a radius: add --rho, such as --rho 0.1"
        )
    return train.main(
        config,
        results and results_folder.committed(results, profile.name),
        device=args.device or profile.device,
        data_dir=args.data,
        perturbation=args.perturbation,
    )


def _prepare(args: argparse.Namespace) -> int:
    from samlib.data import datasets, image_folders
    from samlib.data.info import INFO
    from samlib.study import profiles

    bases = profiles.get(args.profile).bases.values()
    for name in [args.dataset] if args.dataset else sorted({base.dataset for base in bases}):
        if INFO[choose("data set", name, INFO)].folders:
            folder, classes = image_folders.check(name, args.data)
            print(f"{name}: {folder}, {len(classes)} classes")
        else:
            path = datasets.prepare(name, args.data)
            print(f"{name}: {path or 'comes with scikit-learn, nothing to prepare'}")
    return 0


def _notebook(args: argparse.Namespace) -> int:
    from samlib.files import resolve
    from samlib.publish import notebooks
    from samlib.study import profiles

    args.name = args.name.removesuffix(".ipynb")
    flags = {"profile": args.profile, "results": args.results}
    given = {key: str(value) for key, value in flags.items() if value is not None}
    for key, value in args.p:
        try:
            given[key] = json.loads(value)
        except (ValueError, RecursionError):
            given[key] = value
    if "profile" in given:
        profiles.get(given["profile"])  # before a kernel is started
    output = args.output or resolve("build") / f"{args.name}.ipynb"
    print(notebooks.run(args.name, output, given))
    return 0


def _book(args: argparse.Namespace) -> int:
    from samlib.publish import book

    names = None
    if args.profile:
        profile, _ = _profile(args)
        names = [profile.name]
    print(f"The book: {book.build(args.results, args.book, names)}")
    return 0


def _tables(args: argparse.Namespace) -> int:
    from samlib.publish import notebooks

    require("tables and figures", *notebooks.TABLES)
    from samlib.publish import tables

    profile, results = _profile(args)
    for path in tables.write(profile.name, results):
        print(path)
    return 0


def _bench(args: argparse.Namespace) -> int:
    from samlib import bench

    given = {k: v for k, v in vars(args).items() if k not in ("verb", "what", "results")}
    what = args.what or _default_bench("device" in given)
    kind = bench.kind(what)
    for name in given:
        choose(f"flag of bench {what}", name, [f.name for f in fields(kind.Setting)])
    record, path = bench.run(kind, kind.Setting(**given), args.results)
    print(kind.table(record))
    print(path)
    return 0


def _default_bench(anywhere: bool) -> str:
    import torch

    if anywhere or torch.cuda.is_available():
        return "gpu"
    raise ConfigError("no CUDA GPU is available here: say which bench, `bench step` times a step")


def _readme(args: argparse.Namespace) -> int:
    from samlib.publish import notebooks

    require("tables and figures", *notebooks.TABLES)
    from samlib.files import project_root
    from samlib.publish import pages, readme

    root = project_root()
    if not args.results.is_relative_to(root):
        raise ConfigError(
            f"the README of {root} shows results within it, not those in {args.results}"
        )
    args.profile = args.profile or pages.shown(args.results)[0]
    profile, results = _profile(args)
    if profile.name == "smoke":
        raise ConfigError("the smoke profile is no result, and the README shows results only")
    for path in readme.update(profile.name, results, root / "README.md"):
        print(path)
    return 0


def _profile(args: argparse.Namespace):
    from samlib.files import usable
    from samlib.study import profiles

    profile = profiles.get(args.profile)
    if args.results:
        inside = usable(args.results / profile.name)  # whether the folder lets us look into it
        if (args.results / "runs").is_dir() and not inside.exists():
            raise ConfigError(
                f"{args.results} is the folder of one profile: --results is the one above it, "
                f"{args.results.parent}"
            )
    return profile, args.results


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
