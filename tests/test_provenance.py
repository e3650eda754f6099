import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import samlib
from samlib.provenance import DECIDING, provenance, source_digest

# imported by a run without deciding what it computes
HARMLESS = {
    "__init__",
    "checkpoint",
    "errors",
    "files",
    "garbage",
    "paths",
    "provenance",
    "records",
}


def test_every_module_that_decides_a_run_is_in_its_digest():
    code = "import sys, samlib.train, samlib.profiles; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {m.split(".")[1] for m in done.stdout.split() if m.startswith("samlib.")}
    assert imported - HARMLESS == set(DECIDING)


def test_the_digest_follows_the_code(monkeypatch, tmp_path):
    before = source_digest()
    for path in Path(samlib.__file__).parent.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("samlib.provenance._HERE", tmp_path)
    assert source_digest() == before
    (tmp_path / "report.py").write_text("")
    assert source_digest() == before
    (tmp_path / "sam.py").write_text("")
    assert source_digest() != before


def test_it_names_versions_hardware_and_commit():
    found = provenance()
    assert found["packages"]["torch"] == version("torch")
    assert found["processor"]
    assert len(found["commit"]) == 40
