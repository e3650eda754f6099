"""What torch alone gives, and what is said where an extra is not installed."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import one_line

import samlib
from samlib.errors import SamlibError
from samlib.extras import EXTRAS, ExtraMissing, install, needed, require
from samlib.files import checkout

PACKAGE = Path(samlib.__file__).parent
ROOT = checkout()
# Everything beyond torch and what it brings along: as if it were not installed.
TORCH_ALONE = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        absent = name.partition(".")[0] in {absent}
        return None if absent else self.finder.find_spec(name, *rest)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
ABSENT = {"numpy", "timm", "torchvision", "pandas", "scipy", "sklearn", "threadpoolctl", "PIL"}
ABSENT |= {"matplotlib"}


def python(code, *, cwd, site, **environment):
    env = os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.run(
        [sys.executable, "-W", "ignore::UserWarning", "-c", code],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The package as `pip install .` puts it: without the checkout around it."""
    folder = tmp_path_factory.mktemp("site-packages")
    shutil.copytree(PACKAGE, folder / "samlib", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_with_torch_alone_there_is_the_step_and_one_line_for_the_rest(tmp_path, site):
    code = TORCH_ALONE.replace("{absent}", repr(ABSENT)) + (
        "import torch\n"
        "from samlib import *\n"
        "net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.LayerNorm(8))\n"
        "ball = Perturbation(geometry.ElementwiseL2(), 0.1, masks.only_norm(net))\n"
        "optimizer = torch.optim.SGD(net.parameters(), 0.1)\n"
        "loss = sam_step(lambda: net(torch.ones(2, 3)).square().sum(), optimizer, ball)\n"
        "print(loss.item() > 0)\n"
        "import samlib\n"
        "for name in ('RunConfig', 'train'):\n"
        "    try:\n"
        "        getattr(samlib, name)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
        "from samlib.__main__ import main\n"
        "sys.exit(main(['status']))\n"
    )
    done = python(code, cwd=tmp_path, site=site)
    assert done.returncode == 2, done.stderr
    stepped, *said = done.stdout.splitlines()
    assert stepped == "True"
    for line, name in zip(said, ("RunConfig", "train"), strict=True):
        assert line.startswith(f"samlib.{name} needs ")
        assert line.endswith(": pip install 'samlib[study]'")
    (line,) = done.stderr.splitlines()
    assert line.startswith("samlib: the command line needs ")
    assert line.endswith(": pip install 'samlib[study]'")


def test_installed_without_its_checkout_it_keeps_out_of_site_packages(tmp_path, site):
    before = sorted(site.rglob("*.py"))
    run = (
        "import sys; from samlib.study import cells, plan; from samlib.__main__ import main\n"
        "plan.NEEDS = {'introduction': lambda p: cells.Needs([])}\n"
        "code = main(['run', '--profile', 'smoke'])\n"
        "main(['status', '--profile', 'smoke'])\n"
        "for verb in (['notebook', 'rho_sweep'], ['book'], ['notebook', 'none'], ['reproduce']):\n"
        "    print(main(verb), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = python(run, cwd=tmp_path, site=site)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "results" / "smoke").iterdir()] == [".lock"]
    assert f"profile smoke in {tmp_path / 'results' / 'smoke'}" in done.stdout
    assert sorted(path for path in site.rglob("*") if path.suffix != ".py" and path.is_file()) == [
        site / "samlib" / "py.typed"
    ]
    assert sorted(site.rglob("*.py")) == before
    said = [line for line in done.stderr.splitlines() if line.startswith("samlib: ")]
    assert [line.partition(":")[2].partition(":")[0].strip() for line in said] == [
        "notebooks are not installed with samlib",
        "the book's pages are not installed with samlib",
        "notebooks are not installed with samlib",
        "the book's pages are not installed with samlib",
    ]
    assert done.stderr.splitlines()[-8:][1::2] == ["2"] * 4


def test_the_lazy_names_are_those_of_their_modules():
    from samlib.trainer.config import RunConfig
    from samlib.trainer.one_run import train

    assert (samlib.RunConfig, samlib.train) == (RunConfig, train)
    with pytest.raises(AttributeError, match="no attribute 'runconfig'"):
        _ = samlib.runconfig


def test_every_extra_that_is_named_is_one():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*EXTRAS.values(), "study"} <= declared["optional-dependencies"].keys()
    assert [name.partition(">")[0] for name in declared["dependencies"]] == ["torch"]
    assert declared["version"] == samlib.__version__


def test_the_command_is_that_of_the_extra_and_can_be_pasted_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert install("seaborn") == f"pip install -e '{ROOT}[book]'"
    monkeypatch.setattr("samlib.extras.checkout", lambda: None)
    assert install("scipy") == "pip install 'samlib[study]'"
    assert install("ray") == "pip install 'samlib[cluster]'"


def test_what_is_required_and_absent_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "seaborn", None)
    with pytest.raises(SamlibError, match=r"tables need seaborn: pip install .*\[book\]") as caught:
        require("tables", "matplotlib", "seaborn")
    one_line(caught)
    require("tables", "matplotlib")


@pytest.mark.parametrize("name", ["samlib.nothing", "samlib"])
def test_a_module_of_our_own_that_is_missing_is_no_extra(name):
    with pytest.raises(ModuleNotFoundError) as caught, needed("a test"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    assert not isinstance(caught.value, ExtraMissing)
