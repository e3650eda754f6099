"""Which folder a relative path is meant from."""

from pathlib import Path

import pytest
from helpers import run

from samlib import files
from samlib.cli.flags import parser
from samlib.errors import ConfigError
from samlib.files import project_root, resolve, typed
from samlib.publish import notebooks

ROOT = project_root()


@pytest.fixture
def other(tmp_path, monkeypatch):
    """A project of somebody else's, as the current folder."""
    (tmp_path / "pyproject.toml").write_text("")
    for name in ("notebooks/mine.ipynb", "book/_toc.yml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_relative_folders_are_meant_from_the_projects_root(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT / "notebooks")
    assert resolve("results") == ROOT / "results"
    assert resolve(str(tmp_path)) == tmp_path


def test_another_project_with_notebooks_and_a_book_is_not_ours(other):
    assert project_root() == Path(files.__file__).parent.parent
    assert "own_training" in notebooks.names()


def test_what_is_typed_is_meant_from_the_current_folder_and_defaults_from_the_projects(other):
    typed_in = parser().parse_args(
        ["reproduce", "--results", "mine", "--book", "../x", "--data", "d"]
    )
    assert typed_in.results == other / "mine"
    assert typed_in.book == other.parent / "x"
    assert typed_in.data == other / "d"
    default = parser().parse_args(["reproduce"])
    assert (default.results, default.book) == (ROOT / "results", ROOT / "book")


def test_a_notebooks_parameters_are_meant_from_the_projects_root(capsys, other, monkeypatch):
    called = []
    monkeypatch.setattr(notebooks, "run", lambda *arguments: called.append(arguments))
    run(capsys, "notebook", "variants", "-p", "results", "mine")
    run(capsys, "notebook", "variants", "--results", "mine", "--output", "x.ipynb")
    (_, default, parameters), (_, output, flags) = called
    assert parameters["results"] == "mine"
    assert default == ROOT / "build" / "variants.ipynb"
    assert flags["results"] == str(other / "mine")
    assert output == other / "x.ipynb"


def test_help_says_so(capsys):
    for verb in ("train", "run", "notebook"):
        said = " ".join(run(capsys, verb, "--help")[1].split())
        assert "Paths you type are relative to the current directory; default paths are" in said


@pytest.mark.parametrize(
    ("text", "says"), [("", "it is empty"), ("n" * 300, "too long"), ("a\0b", "null byte")]
)
def test_what_is_no_path_is_refused(text, says):
    with pytest.raises(ConfigError, match=says):
        typed(text)


def test_a_home_folder_is_known_by_its_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert typed("~/x") == tmp_path / "x"


def test_a_folder_closed_to_us_is_refused(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "lstat", refused)
    with pytest.raises(ConfigError, match="not a usable path: Permission denied"):
        typed(str(tmp_path))
