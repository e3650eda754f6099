"""What has no records yet, and the command that makes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from samlib.campaign.backlog import Backlog, Estimate
from samlib.campaign.progress import clock
from samlib.records.results_folder import ResultsFolder, committed
from samlib.report import campaign_cost
from samlib.report.results import Results, read
from samlib.study import plan, profiles
from samlib.study.cells import Needs
from samlib.study.profile import Profile

# Profiles, the nearest to the paper first.
NEAREST = ["paper", "imagenet", "cifar100-short", "cifar100-45k", "cifar100-10k", "quick", "smoke"]
# The same in the order of the book: `cifar100-45k` has the headline's methods alone, and would lead
# to few pages; it stands behind the profile that has the others.
LEADING = ["paper", "imagenet", "cifar100-short", "cifar100-10k", "cifar100-45k", "quick", "smoke"]
ONE = {"cpu": "one core", "cuda": "one worker on a GPU (less if it is alone there)"}


class Missing(NamedTuple):
    """Of runs and measurements: how many have no record, of how many, and what they take.

    Attributes:
        count, total: how many have no record, of how many.
        seconds: of one core, or of one worker on a GPU, by records and timed steps; None where
            nothing is known.
        is_floor: whether they take longer, as no record times a measurement.
        device: cpu or cuda.
    """

    count: int
    total: int
    seconds: float | None
    is_floor: bool
    device: str

    @property
    def done(self) -> int:
        """How many have a record."""
        return self.total - self.count

    @property
    def cost(self) -> str:
        """The time in words; "" where nothing is known of it."""
        if not self.seconds:
            return ""
        about, one = ("about", "more than")[self.is_floor], ONE[self.device]
        return f"{about} {clock(self.seconds)} of {one}"


def counted(needs: Sequence[Needs], found: Results, *, with_weights: bool = False) -> Missing:
    """What some needs lack among the records of a profile.

    Args:
        needs: of some chapters.
        found: the records.
        with_weights: whether measurements are taken to find their weights, wherever they are.
    """
    backlog = Backlog(needs, found.records, found.measures)
    count, jobs = backlog.total - backlog.done, [*backlog.jobs(), *backlog.to_come()]
    on = campaign_cost.kind_of_device(found)
    estimate = Estimate(
        found.records,
        found.measures,
        folder=None if with_weights else ResultsFolder(found.folder),
        unseen=campaign_cost.of_run(found, on),
    )
    return Missing(count, backlog.total, estimate.total(jobs), estimate.is_floor(jobs), on)


def of_chapter(profile: Profile, chapter: str, folder: Path) -> str | None:
    """What a chapter lacks and what makes it; None where it has all it needs to say something.

    Args:
        profile: whose chapter.
        chapter: a name of `plan.NEEDS`.
        folder: of all profiles' results.
    """
    found = read(profile, committed(folder, profile.name))
    needs = plan.chapter_needs(profile, chapter)
    if not counted([each._replace(beside=()) for each in needs], found, with_weights=True).count:
        return None
    lacking = counted(needs, found, with_weights=True)
    cost = f", in {lacking.cost}" if lacking.cost else ""
    return (
        f"Not run yet: {lacking.count} of {lacking.total} runs and measurements have no record. "
        f"`{found.to_run(chapter)}` makes them{cost}."
    )


def nearer_to_the_paper(results: Results) -> list[tuple[Profile, str | None]]:
    """Profiles nearer to the paper whose runs have begun, and what is missing there.

    None where the introduction lacks nothing.
    """
    said = []
    for name in NEAREST[: NEAREST.index(results.profile.name)]:
        profile, folder = profiles.get(name), results.folder.parent
        if any(committed(folder, name).runs.glob("*.json")):
            said.append((profile, of_chapter(profile, "introduction", folder)))
    return said
