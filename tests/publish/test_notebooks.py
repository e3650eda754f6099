import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import made_up_results

from samlib.errors import ConfigError
from samlib.files import DiskError, project_root
from samlib.publish import notebooks
from samlib.publish.notebooks import NotebookError
from samlib.study import plan

ROOT = project_root()


def cells(name):
    return json.loads(notebooks.source(name).read_text())["cells"]


@pytest.mark.parametrize("name", notebooks.names())
def test_notebooks_in_git_are_clean_and_have_one_parameters_cell(name):
    for cell in cells(name):
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    tagged = [c for c in cells(name) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1


@pytest.mark.parametrize("name", notebooks.names())
def test_a_figure_says_what_it_shows_to_those_who_do_not_see_it(name):
    for cell in cells(name):
        drawn = re.search(r"(\w+)\.(figure\w*)\(", "".join(cell["source"]))
        if cell["cell_type"] == "code" and drawn:
            room = "report" if drawn[1] == "toys" else "chapters"
            module = importlib.import_module(f"samlib.{room}.{drawn[1]}")
            alt = getattr(module, drawn[2]).__doc__.split("\n")[0]
            assert cell["metadata"].get("mystnb") == {"image": {"alt": alt}}, drawn[0]


def test_every_notebook_of_the_study_exists():
    assert set(plan.NEEDS) <= set(notebooks.names())


def test_the_table_of_contents_has_every_notebook():
    toc = (ROOT / "book" / "_toc.yml").read_text()
    for name in notebooks.names():
        assert f"notebooks/{name}\n" in toc


def test_a_misspelt_parameter_fails_before_anything_runs(tmp_path):
    output = tmp_path / "out.ipynb"
    with pytest.raises(ConfigError, match="valid: profile, results, missing"):
        notebooks.run("variants", output, {"profil": "smoke"})
    assert not list(tmp_path.iterdir())


def test_a_copy_that_cannot_be_written_names_the_flag_that_chose_its_place():
    with pytest.raises(DiskError, match=r"/proc/none/x.ipynb: .*; choose .* with --output$"):
        notebooks.run("own_training", Path("/proc/none/x.ipynb"), {})


def test_a_copy_needs_a_files_name(tmp_path):
    with pytest.raises(ConfigError, match="needs a file's name"):
        notebooks.run("own_training", tmp_path, {})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return made_up_results(tmp_path_factory.mktemp("results"))


@pytest.mark.slow
@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_papermill_runs_a_notebook_from_the_root_and_from_its_folder(results, tmp_path, folder):
    path = "notebooks/sparsity.ipynb" if folder == "." else "sparsity.ipynb"
    output = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", path, str(output), "-p", "profile", "smoke"]
    command += ["-p", "results", str(results), "--no-progress-bar"]
    done = subprocess.run(command, cwd=ROOT / folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = json.dumps(json.loads(output.read_text())["cells"], ensure_ascii=False)
    assert "SSAM-F" in shown
    assert "image/png" in shown


@pytest.mark.slow
def test_a_missing_record_is_an_error_that_names_the_command_and_leaves_no_page(tmp_path):
    output = tmp_path / "variants.ipynb"
    given = {"profile": "smoke", "results": str(tmp_path / "none"), "missing": "error"}
    with pytest.raises(NotebookError, match=r"python -m samlib run --profile smoke"):
        notebooks.run("variants", output, given)
    assert not output.exists()
