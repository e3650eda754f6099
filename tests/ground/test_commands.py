"""Commands that messages offer: they can be pasted, wherever the folder is."""

import re
import shlex

import pytest
from helpers import run

from samlib.data import datasets
from samlib.errors import DataMissing


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
