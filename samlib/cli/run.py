"""`reproduce` and `run`: train and measure what a profile lacks, in one process or in many."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from samlib.campaign import runner, torchrun
from samlib.campaign.runner import Outcome
from samlib.cli.train import check_alone, check_shared
from samlib.data import datasets, image_folders
from samlib.data.info import INFO
from samlib.errors import ConfigError, SamlibError, command
from samlib.extras import require
from samlib.publish import notebooks
from samlib.records import compare, journal, results_folder
from samlib.records.results_folder import ResultsFolder
from samlib.records.store import RecordError
from samlib.report import campaign_cost
from samlib.report.results import Results, read
from samlib.study import kept_plan, plan
from samlib.study.cells import Needs, all_cells
from samlib.study.profile import Profile
from samlib.trainer import one_run, process_group


def reproduce(args: argparse.Namespace, profile: Profile, results: Path) -> int:
    """Train a whole profile anew, replace its folder, build the book; the exit status."""
    if process_group.launched():
        raise ConfigError("reproduce is for one process: under torchrun use `run`")
    require("tables, figures and the book", *notebooks.TABLES, *notebooks.BOOK)
    from samlib.publish import book, readme, tables

    book.prose()  # hours before the book is built
    _check(args, profile)
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
        for said in _changed_plan(profile, old):
            print(f"warning: {said}")
        with old.locked():
            results_folder.replace_committed(new, results, profile.name)
    kept = f"the runs are complete and in place: `{command('book', '--results', results)}`"
    try:
        tables.write(profile.name, results)
        readme.write_figure(profile.name, results)
        index = book.build(results, args.book)
    except SamlibError as error:  # of no other class: what stopped the book stopped no run
        raise SamlibError(f"{error}; {kept}") from error
    except KeyboardInterrupt:  # the same command would begin anew
        print(f"\nsamlib: interrupted; {kept}", file=sys.stderr)
        return 130
    except Exception as error:
        error.add_note(f"samlib: {kept}")
        raise
    print(tables.headline_text(profile.name, results))
    print(f"\nThe book: {index}")
    return 0


def _changed_plan(profile: Profile, old: ResultsFolder) -> list[str]:
    """What differs from the plan of records that are replaced; why, if that cannot be told."""
    from samlib.report import html

    try:
        return html.plan_changes(read(profile, old))
    except RecordError as error:  # of another format, or damaged: the new ones take their place
        return [f"the plan of the records that are replaced is not compared: {error}"]


def _check(args: argparse.Namespace, profile: Profile) -> None:
    """Check device, packages and data sets once, before the first run."""
    needs = plan.chapter_needs(profile, getattr(args, "only", None))
    if args.executor == "local":  # a cluster's devices and packages are not this machine's
        one_run.usable_device(args.device or profile.device)
        measures = {wanted.measure for need in needs for wanted in need.measured}
        if measures & {"robustness", "robustness_in_short"}:
            require("attacks", "art")
        _check_data(needs, args.data)


def _check_data(needs: Sequence[Needs], data_dir: Path | None) -> None:
    for name in {cell.base.dataset for cell in all_cells(needs)}:
        if INFO[name].folders:
            image_folders.check(name, data_dir)
        else:
            datasets.load(name, data_dir)


def run(args: argparse.Namespace, profile: Profile, results: Path) -> int:
    """Train and measure what has no record yet; the exit status."""
    _check_only(args.only)
    check_alone(args.perturbation)
    target = results_folder.committed(results, profile.name)
    if process_group.launched():
        return _run_parallel(args, profile, target)
    _check(args, profile)
    with target.locked():
        return _summary(_run_missing(args, profile, target), target)


def _check_only(name: str | None) -> None:
    if name not in plan.NEEDS and name in notebooks.names():
        raise ConfigError(
            f"notebook {name} has no runs of its own: `python -m samlib notebook {name}` runs it"
        )


def _run_parallel(args: argparse.Namespace, profile: Profile, target: ResultsFolder) -> int:
    """Under torchrun every run takes all workers; the first one holds the folder."""
    if args.workers is not None or args.executor != "local":
        raise ConfigError(
            "--workers and --executor are not for torchrun, which has started the workers: leave "
            "them out"
        )
    device, needs = args.device or profile.device, plan.chapter_needs(profile, args.only)
    check_shared(device)
    _check_data(needs, args.data)
    with process_group.join(device) as among:
        first = among.rank == 0
        with target.locked() if first else nullcontext():
            if first:
                kept_plan.keep(target, profile, needs)
            outcome = torchrun.run_missing_on_all_workers(
                needs,
                target,
                among,
                perturbation=args.perturbation,
                data_dir=args.data,
                time_budget=args.time_budget,
            )
    if not first:
        return 0
    print(f"{among.count} workers; `run` in one process measures what they trained")
    return _summary(outcome, target)


def _run_missing(args: argparse.Namespace, profile: Profile, target: ResultsFolder) -> Outcome:
    needs = plan.chapter_needs(profile, getattr(args, "only", None))
    kept_plan.keep(target, profile, needs)
    device = args.device or profile.device
    return runner.run_missing(
        needs,
        target,
        workers=args.workers,
        device=device,
        data_dir=args.data,
        time_budget=getattr(args, "time_budget", None),
        executor=args.executor,
        unseen=campaign_cost.of_run(
            Results(profile, {}, {}, target.path), device.partition(":")[0]
        ),
    )


def _summary(outcome: Outcome, target: ResultsFolder) -> int:
    for run_id, reason in outcome.failed.items():
        print(journal.failure_text(target, run_id, reason), file=sys.stderr)
    done, skipped = len(outcome.done), len(outcome.skipped)
    if skipped and done:
        print(
            f"{skipped} runs would end after the time budget and were not started; the same "
            "command continues"
        )
    elif skipped:
        print(
            "no run that is left would end within the time budget: give --time-budget more",
            file=sys.stderr,
        )
    print(f"{done} run{'s' * (done != 1)} done, {len(outcome.failed)} failed")
    return 1 if outcome.failed or (skipped and not done) else 0
