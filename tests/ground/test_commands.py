"""Commands that messages offer: they can be pasted, wherever the folder is."""

import re
import shlex
import shutil
import subprocess

import pytest
from helpers import run

from samlib.cli.flags import parser
from samlib.data import datasets
from samlib.errors import DataMissing
from samlib.files import project_root


@pytest.mark.parametrize("verb", ["tables", "book"])
def test_a_folder_with_a_space_in_it_is_quoted(verb, tmp_path, capsys):
    folder = tmp_path / "two words (1)"
    folder.mkdir()
    words = ["--profile", "smoke"] if verb == "tables" else []
    code, _, err = run(capsys, verb, *words, "--results", str(folder))
    assert code == 2
    (offered,) = re.findall(r"`(python -m samlib [^`]+)`", err)
    assert str(folder) in shlex.split(offered)


def offline(*arguments):
    raise OSError("Connection refused")


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("fashion_mnist", "FashionMNIST/raw/train-labels-idx1-ubyte.gz"),
    ],
)
def test_a_torn_archive_is_called_so(name, archive, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_download", offline)
    torn = tmp_path / "archives" / archive
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"\x1f\x8b" + bytes(10_000))
    with pytest.raises(DataMissing, match="is there, but it is not the original: its M") as caught:
        datasets.prepare(name, tmp_path)
    assert str(torn) in str(caught.value)
    torn.unlink()
    with pytest.raises(DataMissing, match=r"put a ready .* or the original"):
        datasets.prepare(name, tmp_path)


def test_clean_leaves_a_campaign_on_a_gpu_alone(tmp_path):
    shutil.copy(project_root() / "Makefile", tmp_path)
    for name in ("build/gpu/results", "build/smoke", "book/_build"):
        (tmp_path / name).mkdir(parents=True)
    subprocess.run(["make", "-s", "clean"], cwd=tmp_path, check=True)
    assert (tmp_path / "build/gpu/results").exists()
    assert not (tmp_path / "build/smoke").exists()
    assert not (tmp_path / "book/_build").exists()


@pytest.mark.parametrize(
    ("given", "device"), [("cpu:0", "cpu"), ("cpu", "cpu"), ("cuda:1", "cuda:1")]
)
def test_a_cpu_has_no_number(given, device):
    """Or its records would count as those of a GPU."""
    assert parser().parse_args(["run", "--device", given]).device == device
