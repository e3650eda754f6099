import importlib.util
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import samlib
from samlib.provenance import MEASURING, digest, packages, provenance, source_digest, tf32
from samlib.records import results_folder
from samlib.sam.restore import full_precision

HERE = Path(samlib.__file__).parent


@pytest.fixture
def copy(tmp_path):
    """A copy of the package, and a function that does git's commands there."""

    def git(*arguments):
        name = ("-c", "user.name=n", "-c", "user.email=e")
        subprocess.run(["git", "-C", tmp_path, *name, *arguments], check=True, capture_output=True)

    folder = tmp_path / "samlib"
    folder.mkdir()
    for path in HERE.rglob("*.py"):
        (folder / path.relative_to(HERE)).parent.mkdir(parents=True, exist_ok=True)
        (folder / path.relative_to(HERE)).write_bytes(path.read_bytes())
    git("init")
    return folder, git


def loaded(folder):
    """The module as a process has it that imports the package from there now."""
    found = importlib.util.spec_from_file_location("copied", folder / "provenance.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_digests_follow_the_code(copy):
    folder, _ = copy
    before = loaded(folder)
    for changed, of_runs, of_measurements in (
        ("report/html", False, False),
        ("measures/sharpness", False, True),
        ("sam/step", True, False),
        ("sam/masks/whole", True, False),
        ("models/zoo", True, False),
        ("trainer/distributed", True, False),
        ("study/plan", False, False),
    ):
        (folder / f"{changed}.py").write_text("")
        after = loaded(folder)
        assert (after.source_digest() != before.source_digest()) == of_runs
        assert (
            after.source_digest(MEASURING) != before.source_digest(MEASURING)
        ) == of_measurements
        before = after


def test_an_editors_lock_is_no_code(copy):
    """Emacs leaves a link that leads nowhere while a file is changed, macOS a file of its own."""
    folder, _ = copy
    before = loaded(folder).source_digest()
    (folder / "sam" / ".#step.py").symlink_to("me@host.1:2")
    (folder / "sam" / "._step.py").write_bytes(b"\0")
    assert loaded(folder).source_digest() == before


def test_they_are_of_the_code_that_was_imported(copy):
    """Not of what is pulled while it runs, whose commit is not claimed either."""
    folder, git = copy
    git("add", "samlib")
    git("commit", "-m", "old")
    before, old, gone = (loaded(folder) for _ in range(3))
    assert before.provenance()["dirty"] is False
    (folder / "sam/step.py").write_text("")
    git("commit", "-a", "-m", "new")
    assert old.source_digest() == before.source_digest() != loaded(folder).source_digest()
    assert old.provenance()["dirty"] is True
    assert len(old.provenance()["commit"]) == 40
    assert loaded(folder).provenance()["dirty"] is False
    shutil.rmtree(folder / "models")
    git("commit", "-a", "-m", "newer")
    assert gone.provenance()["dirty"] is True


def test_a_measurement_names_the_code_that_measured(copy):
    folder, git = copy
    git("add", "samlib")
    git("commit", "-m", "old")
    before = loaded(folder)
    (folder / "measures/hessian.py").write_text("")
    of_run, measured = (loaded(folder).provenance(measuring=m) for m in (False, True))
    assert "measuring" not in of_run
    assert measured["source"] == of_run["source"] == before.source_digest()
    assert measured["measuring"] == digest(MEASURING, folder) != before.source_digest(MEASURING)
    assert (of_run["dirty"], measured["dirty"]) == (False, True)


def test_a_package_inside_another_projects_checkout_has_no_commit(copy):
    folder, git = copy
    (folder.parent / ".gitignore").write_text("samlib")
    git("add", ".gitignore")
    git("commit", "-m", "another project")
    found = loaded(folder).provenance()
    assert (found["commit"], found["dirty"]) == (None, None)


def test_a_tree_without_a_checkout_has_the_commit_it_is_told(copy, monkeypatch):
    folder, _ = copy
    monkeypatch.setenv("SAMLIB_COMMIT", "0123abc")
    found = loaded(folder).provenance()
    assert (found["commit"], found["dirty"]) == ("0123abc", None)


def test_a_campaign_is_begun_by_all_that_decides_its_numbers():
    begun = results_folder.origin()
    assert (begun["source"], begun["measuring"]) == (source_digest(), source_digest(MEASURING))
    assert begun["packages"].keys() >= {"torch", "scipy", "adversarial-robustness-toolbox"}


def test_it_names_versions_hardware_and_commit():
    found = provenance()
    assert found["packages"]["torch"] == version("torch")
    assert found["packages"]["scipy"] == version("scipy")
    assert found["processor"]
    assert found["bf16"] in ("native", "emulated", None)
    assert len(found["commit"]) == 40


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr("samlib.provenance._PACKAGES", ("torch", "not-a-package-of-ours"))
    assert packages.__wrapped__() == {"torch": version("torch"), "not-a-package-of-ours": None}


def test_it_names_the_gpu_that_was_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"GPU at {device}")
    assert provenance("cuda:1")["gpu"] == "GPU at cuda:1"
    assert provenance("cpu")["gpu"] is None


def test_on_a_gpu_it_names_tf32_as_it_is_now(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    assert provenance("cpu")["tf32"] is None
    assert provenance("cuda")["tf32"] == {"convolutions": True, "products": False}
    with full_precision():
        assert provenance("cuda")["tf32"] == {"convolutions": False, "products": False}


def test_tf32_is_read_by_whichever_name_it_was_set():
    """PyTorch refuses to read by its old names what was set by the new ones."""
    cublas = torch.backends.cuda.matmul
    before = cublas.fp32_precision
    cublas.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError):
            _ = cublas.allow_tf32
        assert tf32() == {"convolutions": True, "products": True}
        with full_precision():
            assert tf32() == {"convolutions": False, "products": False}
        assert tf32() == {"convolutions": True, "products": True}
    finally:
        cublas.allow_tf32 = False
        cublas.fp32_precision = before
