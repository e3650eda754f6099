"""The plan for a GPU: its order, its fallback, and that it continues; a stub takes its commands."""

import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

PLAN = Path(__file__).parents[2] / "tools" / "gpu_plan.sh"
# Notes what it is called with, and ends as the environment says.
STUB = """#!/bin/bash
[ "$1" = -c ] && exit 1
hangs=; case "$*" in *"$HANGS"*) hangs=1 ;; esac
if [ "$hangs" ]; then trap 'kill $!; echo interrupted >> "$CALLS"; exit 1' INT; sleep 60 & fi
echo "graphs=${SAMLIB_GRAPHS:-on} $*" >> "$CALLS"
if [ "$hangs" ]; then wait; fi
case "$*" in
  *"-m pytest"*) exit "${PYTEST:-0}" ;;
  *"probe.py capture"*) exit "${CAPTURE:-0}" ;;
  *"probe.py accuracy"*) exit "${ACCURACY:-0}" ;;
  *"samlib run"*) exit "${RUN:-0}" ;;
esac
"""
# What the plan and the stub read; `make test WORKERS=3` hands its own on.
SETTINGS = (
    "KEEP",
    "OUT",
    "DATA",
    "DEVICE",
    "LIMIT",
    "PROFILE",
    "KNOWN",
    "HEADLINE",
    "WORKERS",
    "MPS",
    "TINY",
    "PYTEST",
    "CAPTURE",
    "ACCURACY",
    "RUN",
)
CHECK = ["-m pytest", "probe.py capture"]
REST = ["probe.py accuracy", "samlib run", "bench gpu", "bench packing", "samlib run"]


@pytest.fixture
def plan(tmp_path):
    """Runs the plan; exit status, and what it called, one line each."""
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(STUB)
    python.chmod(0o755)

    def start(*stages, **environment):
        calls.write_text("")
        given = {"KEEP": str(tmp_path / "keep"), "PYTHON": str(python), "CALLS": str(calls)}
        given |= {"MPS": "0", "SAMLIB_COMMIT": "0123abc", "HANGS": "nothing"} | environment
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # What is started in the background ignores Ctrl-C, and so does all that it starts.
        heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        around = {k: v for k, v in os.environ.items() if k not in SETTINGS}
        return subprocess.Popen([PLAN, *stages], env=around | given, preexec_fn=heard, **pipes)

    def run(*stages, **environment):
        started = start(*stages, **environment)
        out, err = started.communicate(timeout=60)
        done = subprocess.CompletedProcess(stages, started.returncode, out, err)
        return done, calls.read_text().splitlines()

    run.start, run.calls, run.keep = start, calls, tmp_path / "keep"
    return run


def called(lines, expected):
    assert len(lines) == len(expected)
    assert all(part in line for part, line in zip(expected, lines, strict=True))


def test_stages_run_in_order_and_what_they_leave_is_in_one_archive(plan):
    done, lines = plan()
    assert done.returncode == 0
    called(lines, CHECK + REST)
    assert "tests/trainer/test_cuda_graphs.py" in lines[0].split()
    assert "tests/test_rooms.py" not in lines[0].split(), "files with such tests alone"
    assert "--profile cifar100-10k --records results" in lines[2], "of a CPU"
    assert "--profile cifar100-45k --device cuda" in lines[3]
    assert "--workers 3" in lines[3]
    assert "--profile cifar100-short --only introduction --device cuda" in lines[-1]
    for part in ("results/cifar100-10k/runs/a.json", "results/cifar100-10k/weights/a.pt"):
        (plan.keep / part).parent.mkdir(parents=True)
        (plan.keep / part).write_text("{}")
    plan("headline")
    with tarfile.open(plan.keep / "gpu-plan.tgz") as kept:
        names = {n for n in kept.getnames() if n == "log" or n.startswith("results/cifar100-10k/")}
    assert names - {"results/cifar100-10k/runs"} == {"log", "results/cifar100-10k/runs/a.json"}


@pytest.mark.parametrize(("profile", "taken"), [("cifar100-45k", True), ("cifar100-10k", False)])
def test_it_goes_on_from_the_records_of_a_gpu_that_the_project_has(plan, profile, taken):
    plan("evidence", PROFILE=profile)
    there = plan.keep / "results" / profile / "runs"
    known = {path.name for path in (PLAN.parents[1] / "results" / profile / "runs").iterdir()}
    assert {path.name for path in there.glob("*")} == (known if taken else set())


def test_the_same_command_checks_the_same_code_once(plan):
    plan("check")
    done, lines = plan("check", "calibrate")
    assert done.returncode == 0
    called(lines, REST[:1])
    (plan.keep / "checked").write_text("other code")
    called(plan("check")[1], CHECK)


def test_steps_that_cannot_be_captured_turn_graphs_off_and_nothing_else(plan):
    done, lines = plan(CAPTURE="3")
    assert done.returncode == 0
    assert "graphs are off" in done.stdout
    called(lines, CHECK + REST)
    assert [line.split()[0] for line in lines] == ["graphs=on"] * 2 + ["graphs=0"] * 5
    assert plan("evidence")[1][0].startswith("graphs=0"), "in the next call, too"


@pytest.mark.parametrize(
    ("stage", "fails"), [("PYTEST", CHECK[:1]), ("ACCURACY", CHECK + REST[:1])]
)
def test_what_is_not_right_is_not_trained_with(plan, stage, fails):
    done, lines = plan(**{stage: "1"})
    assert done.returncode == 1
    called(lines, fails)
    assert "the same command continues with it" in done.stdout
    assert "to go on all the same, name the later stages" in done.stdout
    assert (plan.keep / "gpu-plan.tgz").exists()


def test_runs_that_fail_cost_no_bench(plan):
    done, lines = plan("evidence", "bench", RUN="1")
    assert done.returncode == 1
    called(lines, REST[1:4])


def test_a_call_ends_with_its_time(plan):
    done, lines = plan("calibrate", "evidence", LIMIT="0")
    assert done.returncode == 124
    assert "the time is up after calibrate" in done.stdout
    called(lines, REST[:1])


@pytest.mark.parametrize(("stage", "hangs"), [("check", "-m pytest"), ("calibrate", "accuracy")])
def test_time_that_is_up_within_a_stage_is_no_verdict_on_it(plan, stage, hangs):
    done, _ = plan(stage, "evidence", LIMIT="2", HANGS=hangs)
    assert done.returncode == 124
    assert f"the time is up after {stage}; the same command continues" in done.stdout
    assert "that ends the plan" not in done.stdout


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_call_keeps_what_there_is_and_is_continued(plan, how):
    plan("check")
    started = plan.start(HANGS="samlib run")
    until = time.monotonic() + 60
    while "samlib run" not in plan.calls.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    started.send_signal(how)
    started.communicate(timeout=60)
    assert started.returncode == 130
    lines = plan.calls.read_text().splitlines()
    called(lines, [*REST[:2], "interrupted"])
    with tarfile.open(plan.keep / "gpu-plan.tgz") as kept:
        log = kept.extractfile("log").read().decode()
    assert "interrupted; the same command continues" in log
    assert log == (plan.keep / "log").read_text()
    called(plan()[1], REST)


def test_a_packing_that_was_timed_is_not_timed_again(plan):
    (plan.keep / "results" / "bench").mkdir(parents=True)
    (plan.keep / "results" / "bench" / "packing-a.json").write_text("{}")
    called(plan("bench")[1], ["bench gpu"])


def test_workers_share_the_device_where_they_can_and_what_is_timed_is_alone(plan, tmp_path):
    service = tmp_path / "nvidia-cuda-mps-control"
    service.write_text('#!/bin/bash\necho "service ${1:-$(cat)}" >> "$CALLS"\n')
    service.chmod(0o755)
    there = {"MPS": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    _, lines = plan("evidence", "bench", **there)
    called(lines, ["service -d", "samlib run", "service quit", "bench gpu", "bench packing"])
    assert "--workers 8" in lines[1]
    _, lines = plan("headline", **there)
    called(lines, ["service -d", "samlib run", "service quit"])
    assert "--workers 2" in lines[1]
    service.write_text("#!/bin/bash\nexit 1\n")
    _, lines = plan("evidence", **there)
    assert "--workers 3" in lines[0], "a service that does not start is none"


def test_it_says_what_it_does(plan):
    done, lines = plan("--help", KEEP="")
    assert (done.returncode, lines) == (0, [])
    assert done.stdout.startswith("The first hour on a GPU, stage by stage.")
    assert "TINY=1 tries it all on a CPU" in done.stdout
    assert "set -u" not in done.stdout


def test_a_misspelt_stage_and_a_missing_folder_are_told(plan):
    done, lines = plan("benches")
    assert done.returncode == 2
    assert not lines
    assert "there are check, calibrate, evidence, bench, headline" in done.stdout
    done, _ = plan(KEEP="")
    assert done.returncode != 0
    assert "is the folder that lasts" in done.stderr
