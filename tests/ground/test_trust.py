"""What the code never does: run a shell, unpickle what was not checked, keep a bad download."""

import ast
import io
import json
import os
import pickle
import struct
import tarfile
from urllib.error import URLError

import pytest
import torchvision.datasets.utils
from conftest import one_line

from samlib.data import datasets
from samlib.errors import DataMissing
from samlib.files import project_root

ROOT = project_root()
# Code from a string, a shell, or pickle by another name.
REFUSED = {
    *("system", "popen", "getoutput", "getstatusoutput"),
    *("read_pickle", "Unpickler", "unsafe_load", "load_state_dict_from_url"),
}
UNPICKLES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}


def called(call):
    """The last two parts of what is called: ("torch", "load") of `torch.load(...)`."""
    function = call.func
    if isinstance(function, ast.Name):
        return "", function.id
    if isinstance(function, ast.Attribute):
        owner = function.value
        return getattr(owner, "id", getattr(owner, "attr", "")), function.attr
    return "", ""


def distrusted(code):
    """The calls in some code that could run what a file or a parameter says."""
    found = []
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        owner, name = called(call)
        given = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
        if (
            (name in REFUSED and owner != "platform")
            or (owner == "" and name in ("eval", "exec", "compile"))
            or (owner in UNPICKLES and name in ("load", "loads", "open"))
            or ((owner, name) == ("torch", "load") and given.get("weights_only") is not True)
            or ((owner, name) in (("np", "load"), ("numpy", "load")) and given.get("allow_pickle"))
            or ("shell" in given and given["shell"] is not False)
        ):
            found.append(ast.unparse(call))
    return found


SOURCES = sorted([*ROOT.glob("samlib/**/*.py"), *ROOT.glob("book/_ext/*.py")])
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


@pytest.mark.parametrize("path", [*SOURCES, *NOTEBOOKS], ids=lambda path: path.name)
def test_no_code_runs_a_shell_or_unpickles(path):
    code = path.read_text()
    if path.suffix == ".ipynb":
        cells = [c for c in json.loads(code)["cells"] if c["cell_type"] == "code"]
        code = "\n".join("".join(cell["source"]) for cell in cells)
    assert distrusted(code) == []


@pytest.mark.parametrize(
    "code",
    [
        "eval(x)",
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "subprocess.Popen(x, shell=maybe)",
        "pickle.loads(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x, allow_pickle=True)",
        "pd.read_pickle(x)",
    ],
)
def test_the_search_finds_what_it_is_for(code):
    assert distrusted(code) == [code]


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
    cls = getattr(torchvision.datasets, datasets.INFO[name].source)
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
