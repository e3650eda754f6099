"""What each verb of the command line does; heavy imports wait until a verb needs them."""

import argparse
import json
import sys
from dataclasses import fields

from samlib.errors import ConfigError, SamlibError, choose, command
from samlib.extras import require


def _reproduce(args: argparse.Namespace) -> int:
    from samlib.publish import notebooks
    from samlib.trainer.process_group import launched

    if launched():
        raise ConfigError("reproduce is for one process: under torchrun use `run`")
    require("tables, figures and the book", *notebooks.TABLES, *notebooks.BOOK)
    from samlib.publish import book, readme, tables
    from samlib.records import compare, results_folder

    profile, results = _profile(args)
    book.prose()  # hours before the book is built
    _check_data(args, profile)
    new, old = (
        results_folder.in_progress(results, profile.name),
        results_folder.committed(results, profile.name),
    )
    with new.locked():
        results_folder.check_origin(new)
        outcome = _run_missing(args, profile, new)
        if outcome.failed or outcome.skipped:
            return _summary(outcome, new)
        print(compare.changes(old.runs, new.runs))
        with old.locked():
            results_folder.replace_committed(new, results, profile.name)
    try:
        tables.write(profile.name, results)
        readme.write_figure(profile.name, results)
        index = book.build(results, args.book)
    except SamlibError as error:
        again = command("book", "--results", results)
        raise type(error)(f"{error}; the runs are complete and in place: `{again}`") from error
    print(tables.headline_text(profile.name, results))
    print(f"\nThe book: {index}")
    return 0


def _check_data(args: argparse.Namespace, profile) -> None:
    """Check device, packages and data sets once, before the first run."""
    from samlib.data import datasets, image_folders
    from samlib.study.plan import chapter_needs
    from samlib.trainer.one_run import usable_device

    if args.executor == "local":  # a cluster's devices and packages are not this machine's
        usable_device(args.device or profile.device)
        needs = chapter_needs(profile, getattr(args, "only", None))
        measures = {wanted.measure for need in needs for wanted in need.measured}
        if measures & {"robustness", "robustness_in_short"}:
            require("attacks", "art")
    for name in {base.dataset for base in profile.bases.values()}:
        if datasets.INFO[name].folders:
            image_folders.check(name, args.data)
        else:
            datasets.load(name, args.data)


def _run(args: argparse.Namespace) -> int:
    from samlib.records import results_folder
    from samlib.trainer.process_group import launched

    profile, results = _profile(args)
    _check_only(args.only)
    _check_alone(args)
    target = results_folder.committed(results, profile.name)
    if launched():
        return _run_parallel(args, profile, target)
    _check_data(args, profile)
    with target.locked():
        return _summary(_run_missing(args, profile, target), target)


def _check_only(name: str | None) -> None:
    from samlib.publish import notebooks
    from samlib.study import plan

    if name not in plan.NEEDS and name in notebooks.names():
        raise ConfigError(
            f"notebook {name} has no runs of its own: `python -m samlib notebook {name}` runs it"
        )


def _check_alone(args: argparse.Namespace) -> None:
    from samlib.trainer.process_group import launched

    if args.perturbation == "synchronised" and not launched():
        raise ConfigError(
            "--perturbation synchronised is for several workers under torchrun; in one process "
            "the perturbation is that of the whole batch: leave it out"
        )


def _run_parallel(args: argparse.Namespace, profile, target) -> int:
    """Under torchrun every run takes all workers; the first one holds the folder."""
    from contextlib import nullcontext

    from samlib.campaign import torchrun
    from samlib.study.plan import chapter_needs
    from samlib.trainer import process_group

    with process_group.join(args.device or profile.device) as among:
        first = among.rank == 0
        with target.locked() if first else nullcontext():
            done = torchrun.run_missing_on_all_workers(
                chapter_needs(profile, args.only),
                target,
                among,
                perturbation=args.perturbation,
                data_dir=args.data,
                time_budget=args.time_budget,
            )
    if first:
        print(f"{done} runs done on {among.count} workers; `run` in one process measures them")
    return 0


def _run_missing(args: argparse.Namespace, profile, target):
    from samlib.campaign.runner import run_missing
    from samlib.study.plan import chapter_needs

    only = getattr(args, "only", None)
    return run_missing(
        chapter_needs(profile, only),
        target,
        workers=args.workers,
        device=args.device or profile.device,
        data_dir=args.data,
        time_budget=getattr(args, "time_budget", None),
        executor=args.executor,
    )


def _summary(outcome, target) -> int:
    from samlib.records import journal

    for run_id, reason in outcome.failed.items():
        print(journal.failure_text(target, run_id, reason), file=sys.stderr)
    if outcome.skipped:
        print(
            f"{len(outcome.skipped)} runs would end after the time budget and were not started; "
            "the same command continues"
        )
    done = len(outcome.done)
    print(f"{done} run{'s' * (done != 1)} done, {len(outcome.failed)} failed")
    return 1 if outcome.failed else 0


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

    _check_alone(args)
    profile, results = _profile(args)
    family = choose("family", args.family or profile.headline, profile.bases)
    names = {field.name for field in fields(RunConfig)}
    given = {k: v for k, v in vars(args).items() if k in names}
    config = profile.bases[family].replace(**given)
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
    from samlib.data import datasets
    from samlib.study import profiles

    bases = profiles.get(args.profile).bases.values()
    for name in [args.dataset] if args.dataset else sorted({base.dataset for base in bases}):
        path = datasets.prepare(name, args.data)
        print(f"{name}: {path or 'comes with scikit-learn, nothing to prepare'}")
    return 0


def _notebook(args: argparse.Namespace) -> int:
    from samlib.files import resolve
    from samlib.publish import notebooks
    from samlib.study import profiles

    args.name = args.name.removesuffix(".ipynb")
    declared = notebooks.parameters(args.name)
    given = {k: str(getattr(args, k)) for k in ("profile", "results") if k in declared}
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
    record, path = kind.run(kind.Setting(**given), args.results)
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
    from samlib.publish import readme

    (profile, results), root = _profile(args), project_root()
    if profile.name == "smoke":
        raise ConfigError("the smoke profile is no result, and the README shows results only")
    if not results.is_relative_to(root):
        raise ConfigError(f"the README of {root} shows results within it, not those in {results}")
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
