"""What is inherited does not show: a notebook is whole, and the same anywhere, or it fails."""

import json
import os
import subprocess
import sys

import pytest
from conftest import one_line

from samlib.files import DiskError, project_root
from samlib.publish import notebooks
from samlib.publish.kernels import kernel
from samlib.publish.notebooks import NotebookError

DRAWN = """
import matplotlib.pyplot as plt
from samlib.report import html
from samlib.report.figures import use_style

class chapter:
    def figure():
        use_style()
        fig, ax = plt.subplots()
        ax.plot([1, 2], label="ρ ± η")
        ax.legend()
"""
FIGURE = "chapter.figure();"


def notebook_of(*sources):
    code = {"cell_type": "code", "execution_count": None, "outputs": []}
    tags = {"tags": ["parameters"]}
    cells = [code | {"metadata": tags, "source": "seed = 0", "id": "c0"}]
    cells += [
        code | {"metadata": {}, "source": source, "id": f"c{i}"}
        for i, source in enumerate(sources, start=1)
    ]
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": python}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes a notebook of some cells the one that is run."""

    def make(*sources):
        path = tmp_path / "made.ipynb"
        path.write_text(json.dumps(notebook_of(*sources)), encoding="utf-8")
        monkeypatch.setattr(notebooks, "source", lambda name: path)
        return tmp_path / "out.ipynb"

    return make


def images(path):
    cells = json.loads(path.read_bytes())["cells"]
    outs = [out for cell in cells for out in cell.get("outputs", ())]
    assert not [out for out in outs if out["output_type"] == "stream"]
    return [out["data"]["image/png"] for out in outs if "image/png" in out.get("data", {})]


def hostile(home):
    """An environment in which each thing that can be set up by a user is set up badly."""
    stale = home / ".local" / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    gone = {"argv": ["/opt/gone/python", "{connection_file}"], "language": "python"}
    startup = home / ".ipython" / "profile_default" / "startup" / "00-mine.py"
    config = home / ".ipython" / "profile_default" / "ipython_kernel_config.py"
    rc, own = home / "matplotlibrc", home / "startup.py"
    for path, text in {
        stale: json.dumps(gone),
        startup: "import matplotlib; matplotlib.use('Agg'); print('my startup file')",
        config: "c.InlineBackend.figure_formats = {'pdf'}\nc.IPKernelApp.exec_lines = ['1/0']",
        rc: "figure.figsize: 1, 1\nfont.size: 40\nsavefig.format: pdf\nno.such.key: 1\n",
        own: "raise SystemExit('my PYTHONSTARTUP')",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    changes = {
        "HOME": str(home),
        "IPYTHONDIR": str(home / ".ipython"),
        "JUPYTER_PREFER_ENV_PATH": "0",
        "LC_ALL": "C",
        "MATPLOTLIBRC": str(rc),
        "MPLBACKEND": "Agg",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONSTARTUP": str(own),
        "PYTHONUTF8": "0",
        "PYTHONWARNINGS": "error",
    }
    dropped = ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "XDG_DATA_HOME")
    return {k: v for k, v in os.environ.items() if k not in dropped} | changes


RUN = """
import sys
from pathlib import Path
from samlib.publish import notebooks
notebooks.source = lambda name: Path(sys.argv[1])
notebooks.run("made", Path(sys.argv[2]), {"seed": 1})
"""


@pytest.mark.slow
def test_a_notebook_is_the_same_whatever_is_inherited(made, tmp_path):
    out = made(DRAWN, FIGURE)
    notebooks.run("made", out, {"seed": 1})
    there = tmp_path / "there.ipynb"
    script = tmp_path / "run.py"
    script.write_text(RUN)
    (tmp_path / "home").mkdir()
    # PYTHONWARNINGS is for the kernel: papermill itself does not stand it.
    command = [sys.executable, "-W", "ignore", str(script)]
    command += [str(tmp_path / "made.ipynb"), str(there)]
    environment = hostile(tmp_path / "home") | {"PYTHONPATH": str(project_root())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(images(out)) == 1
    assert images(there) == images(out)
    assert there.read_bytes() == out.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ((DRAWN, "chapter.figure(); plt.close('all')"), r"a figure: `chapter\.figure\(\)"),
        ((DRAWN, "table = html.badge('holds');"), "a table or a text"),
        (("import os; os._exit(9)",), "kernel"),
    ],
)
def test_a_page_that_is_not_whole_is_an_error(made, sources, said):
    out = made(*sources)
    with pytest.raises(NotebookError, match=said) as caught:
        notebooks.run("made", out, {})
    one_line(caught)
    assert not out.exists()
    assert out.with_suffix(".failed.ipynb").exists()


def test_a_kernel_leaves_nothing_behind():
    before = dict(os.environ)
    with kernel() as name:
        folder = os.environ["JUPYTER_PATH"]
        with open(os.path.join(folder, "kernels", name, "kernel.json"), encoding="utf-8") as file:
            assert json.load(file)["argv"][0] == sys.executable
    assert not os.path.exists(folder)
    assert dict(os.environ) == before


def test_a_copy_that_cannot_be_begun_names_its_flag(made, tmp_path):
    made("1")
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="--output"):
        notebooks.run("made", tmp_path / "file" / "x.ipynb", {})
