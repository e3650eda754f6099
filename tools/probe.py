"""What to know of a device before spending hours on it; `tools/gpu_plan.sh` asks both.

    python tools/probe.py capture --device cuda
    python tools/probe.py accuracy --device cuda --profile cifar100-10k --out calibration

The exit status is 0 where the answer is yes, 3 where it is no, another where there is none.
"""

import argparse
import statistics
import sys
from pathlib import Path

from samlib.errors import SamlibError
from samlib.records import origins, store
from samlib.records.results_folder import ResultsFolder
from samlib.study import profiles
from samlib.study.methods import ALL, BASE, ON
from samlib.trainer.config import RunConfig
from samlib.trainer.cuda_graphs import WORTH
from samlib.trainer.one_run import train

# One of every way a step is made of kernels, on a data set that needs no download.
_DIGITS = RunConfig(train_size=16 * WORTH, validation_size=20, batch_size=16, epochs=2, lr=1e-3)
CAPTURED = {
    "SGD": {},
    "SAM": {"geometry": "l2", "rho": 0.1},
    "SAM-ON, bf16": {"geometry": "l2", "rho": 0.1, "mask": "only_norm", "precision": "bf16"},
    "SSAM": {"geometry": "l2", "rho": 0.1, "mask": "random", "sparsity": 0.5},
    "AdamW": {"model": "vit_micro", "optimizer": "adamw", "clip_norm": 1.0},
}


def capture(device: str) -> bool:
    """Whether steps are replayed as CUDA graphs, method by method; on a CPU none has to be."""
    found = {}
    for name, changes in CAPTURED.items():
        found[name] = train(_DIGITS.replace(**changes), device=device)["provenance"]["replayed"]
        print(f"{name:16} replayed: {found[name]}", flush=True)
    return device == "cpu" or all(answer is True for answer in found.values())


def accuracy(args: argparse.Namespace) -> bool:
    """Whether runs end within some points of those whose records there are.

    The first seeds of the base optimizer, SAM and SAM-ON, each at the rho that the records chose;
    without records of the profile nothing is compared, and the base optimizer is run all the same.
    """
    profile = profiles.get(args.profile)
    there = store.read(ResultsFolder(args.records / profile.name).runs)
    here = ResultsFolder(args.out)
    good = True
    for name, method in (("base", BASE), ("SAM", ALL), ("SAM-ON", ON)):
        cell = profile.cell(profile.headline, method)
        rho = cell.chosen(there)
        if rho is None:
            print(f"{name}: the records of {args.profile} have not chosen its rho", flush=True)
            continue
        pairs = [
            (there.get(run.run_id), _trained(run, here, args.device, args.data))
            for run in cell.at(rho, cell.seeds[: args.seeds])
        ]
        good &= _compared(f"{name} at rho {rho:g}", pairs, args.tolerance)
    return good


def _trained(run: RunConfig, here: ResultsFolder, device: str, data: Path | None) -> dict:
    """The record of a run, trained here unless it has been, by today's code."""
    path = here.runs / f"{run.run_id}.json"
    if path.exists():
        found = store.read_one(path)
        if not origins.of_other_code([found]):
            return found
    store.write(here.runs, train(run, device=device, data_dir=data))
    return store.read_one(path)


def _compared(name: str, pairs: list[tuple[dict | None, dict]], tolerance: float) -> bool:
    ends = [mine["test_accuracy"] for _, mine in pairs]
    seconds = statistics.fmean(mine["times"]["wall"] for _, mine in pairs)
    line = f"{name}: {statistics.fmean(ends):.2f} % here, {seconds:.1f} s a run"
    known = [(of["test_accuracy"], mine["test_accuracy"]) for of, mine in pairs if of]
    if not known:
        print(f"{line}; no record to compare with", flush=True)
        return True
    off = statistics.fmean(b - a for a, b in known)
    print(f"{line}, {off:+.2f} points from {len(known)} records", flush=True)
    return abs(off) <= tolerance


def main() -> int:
    """Answer on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("question", choices=["capture", "accuracy"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--profile", default="cifar100-10k")
    parser.add_argument(
        "--records", type=Path, default=Path("results"), help="what to compare with"
    )
    parser.add_argument("--out", type=Path, default=Path("calibration"), help="what is run here")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tolerance", type=float, default=1.5, help="points")
    args = parser.parse_args()
    try:
        good = capture(args.device) if args.question == "capture" else accuracy(args)
    except SamlibError as error:
        print(f"probe: {error}", file=sys.stderr)
        return 2
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
