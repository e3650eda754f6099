"""What `make` hands on to a campaign."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("goal", ["reproduce", "smoke"])
def test_a_campaign_has_as_many_workers_as_are_asked_for_and_else_its_own_default(goal):
    around = {k: v for k, v in os.environ.items() if k not in ("WORKERS", "MAKEFLAGS", "MFLAGS")}
    for given, environment, expected in (
        ((), {}, []),
        (("WORKERS=3",), {}, ["3"]),
        ((), {"WORKERS": "4"}, ["4"]),
    ):
        command = ["make", "--dry-run", "-C", ROOT, goal, *given]
        said = subprocess.run(command, env=around | environment, capture_output=True, text=True)
        (campaign,) = (line for line in said.stdout.splitlines() if "samlib reproduce" in line)
        assert campaign.split("--workers")[1:] == [f" {count}" for count in expected]
