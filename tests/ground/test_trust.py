"""What the code never does: run a shell, unpickle what was not checked, keep a bad download.

Ruff's rules S102 to S605 in pyproject.toml watch for the first; here is what they do not know.
"""

import ast
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
from urllib.error import URLError

import pytest
import torchvision.datasets.utils
from conftest import one_line

from samlib.data import datasets
from samlib.data.info import INFO
from samlib.errors import DataMissing
from samlib.files import project_root

ROOT = project_root()


def distrusted(code):
    """The calls in some code that could unpickle by another name, or ask for a shell by chance."""
    calls = [ast.unparse(node) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return [
        call
        for call in calls
        if (call.startswith("torch.load(") and "weights_only=True" not in call)
        or ".load_state_dict_from_url(" in call
        or "allow_pickle" in call.replace("allow_pickle=False", "")
        or "shell=" in call.replace("shell=False", "")
    ]


def code_of(path):
    text = path.read_text()
    if path.suffix != ".ipynb":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def test_no_code_runs_a_shell_or_unpickles_what_was_not_checked():
    for pattern in ("samlib/**/*.py", "book/_ext/*.py", "notebooks/*.ipynb"):
        for path in ROOT.glob(pattern):
            assert distrusted(code_of(path)) == [], path


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x, allow_pickle=True)",
        "torch.hub.load_state_dict_from_url(x)",
        "subprocess.Popen(x, shell=maybe)",
    ],
)
def test_the_search_finds_what_it_is_for(code):
    assert distrusted(code) == [code]


def test_ruff_refuses_shells_and_code_from_strings():
    lines = [
        "exec(x)",
        "eval(x)",
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "pickle.loads(x)",
        "marshal.loads(x)",
        "pd.read_pickle(x)",
    ]
    imports = "import marshal, os, pickle, subprocess\nimport pandas as pd\n"
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "json", "-"]
    command += ["--stdin-filename", str(ROOT / "samlib" / "new.py")]
    done = subprocess.run(
        command, input=imports + "\n".join(lines), cwd=ROOT, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    refused = {one["location"]["row"] for one in found if str(one["code"]).startswith("S")}
    assert refused == set(range(3, 3 + len(lines)))


# --- downloads -----------------------------------------------------------------------------------


class Code:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def offline(monkeypatch):
    def no_route(*arguments, **options):
        raise URLError("no route")

    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", no_route)
    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", lambda url, **_: url)


@pytest.mark.parametrize("unpacked", [True, False])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_archive_with_another_checksum_is_not_unpickled(offline, tmp_path, name, unpacked):
    marker, archives = tmp_path / "ran", tmp_path / "archives"
    archives.mkdir()
    cls = getattr(torchvision.datasets, INFO[name].source)
    payload = pickle.dumps(Code(marker))
    with tarfile.open(archives / cls.filename, "w:gz") as tar:
        for file in [*cls.train_list, *cls.test_list, [cls.meta["filename"]]]:
            member = tarfile.TarInfo(f"{cls.base_folder}/{file[0]}")
            member.size = len(payload)
            tar.addfile(member, io.BytesIO(payload))
    if unpacked:
        with tarfile.open(archives / cls.filename) as tar:
            tar.extractall(archives, filter="data")
    with pytest.raises(DataMissing, match="could not be prepared") as caught:
        datasets.prepare(name, tmp_path)
    one_line(caught)
    assert not marker.exists()
    assert not (tmp_path / f"{name}.npz").exists()


def test_unpacked_files_are_not_taken_for_a_checked_download(offline, tiny, tmp_path):
    """As left by a download that was killed while it was unpacked, or changed since."""
    arrays = tiny("fashion_mnist", train=6, test=3)
    raw = tmp_path / "archives" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split, file in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        head = struct.pack(">4BI", 0, 0, 8, 1, len(labels))
        (raw / f"{file}-labels-idx1-ubyte").write_bytes(head + labels.astype("u1").tobytes())
        head = struct.pack(">4B3I", 0, 0, 8, 3, len(images), 28, 28)
        (raw / f"{file}-images-idx3-ubyte").write_bytes(head + images.tobytes())
    with pytest.raises(DataMissing, match="could not be prepared"):
        datasets.prepare("fashion_mnist", tmp_path)
