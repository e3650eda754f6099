"""The recipes of CONTRIBUTING.md, followed in a copy: the new rows are in the smoke tables."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch

import pytest

from samlib.files import project_root

ROOT = project_root()

# What each recipe writes: a file of its own, or text beside a text that its file holds once.
MASK = {
    "samlib/sam/masks/whole.py": (
        "def convolutions(",
        '''def only_first(model: nn.Module) -> Mask:
    """The first trainable parameter."""
    return Mask(model, [Entry(*trainable(model)[0])], "only_first")


''',
    ),
    "samlib/sam/masks/by_name.py": (
        *("    only_gamma,\n", "    only_first,\n"),
        *(
            '    "no_norm": ',
            '    "only_first": lambda model, config: only_first(model),\n',
        ),
    ),
    "tests/sam/test_masks.py": (
        "def test_blocks_of_wrn28_10(",
        """def test_only_first():
    mask = MASKS["only_first"](small_net(), None)
    assert names(mask) == ["conv1.weight"]


""",
    ),
    "samlib/study/profiles/quick.py": (
        '    Row(Method("l2", "blocks_1")',
        '    Row(Method("l2", "only_first"), ladder(0.5), "wrn"),\n',
    ),
}
VARIANT = {
    "samlib/sam/geometry.py": (
        *(
            "# Every variant of the study by the name",
            '''class Halved(Geometry):
    """T_w = 1/2, p = 2."""

    def _T(self, weights, grads):
        return [w.new_tensor(0.5) for w in weights]


''',
        ),
        *("}\n# What a configuration can name", '    "halved": Halved(),\n'),
    ),
    "tests/sam/test_geometry.py": (
        '        elif name.startswith("layerwise"):\n',
        '        elif name == "halved":\n            t = np.full_like(w, 0.5)\n',
    ),
    "samlib/study/profiles/quick.py": (
        '    Row(Method("l2", "no_norm")',
        '    *pair("halved", 0.5, 0.5, problem="wrn"),\n',
    ),
}
NETWORK = {
    "samlib/models/zoo.py": ('    "vit_micro": ', '    "wrn16_1": partial(_wrn, 16, 1),\n'),
    "tests/models/test_models.py": (
        "def test_zoo_lists_",
        """def test_wrn16_1():
    assert counts(on_meta("wrn16_1")) == (175_066, 928, 13)


""",
    ),
    "samlib/study/profiles/quick.py": (
        '        "resnext": ',
        '        "wrn-deep": _DIGITS.replace(model="wrn16_1"),\n',
    ),
}
MEMBER = {
    "samlib/sam/family.py": (
        '    "ae_sam": ',
        '    "every_other": Member(when=lambda run: Every(2), passes="1 + 1/2"),\n',
    ),
    "tests/sam/dense_family.py": (
        *("def ae_sam(", "def every_other(r, steps):\n    every_k(r, steps, k=2)\n\n\n"),
        *("        *(downhill,", "        every_other,\n"),
    ),
    "samlib/study/members.py": (
        *('    *("ss_sam", ', '    "every_other",\n'),
        *('    "rho_lr": (', '    "every_other": _LIKE_SAM,\n'),
        *('"felt_by_mask")  # one of', '"every_other", '),
    ),
    "samlib/chapters/systems.py": (
        '    System("AE-SAM ',
        '    System("Half of the steps (2026)", when="every 2", member="every_other"),\n',
    ),
}
MEASURE = {
    "samlib/measures/recall.py": '''"""Test accuracy of the final weights."""

from samlib.trainer.loop import Trainer


def recall(run: Trainer) -> dict:
    """Test accuracy, `clean`, in percent."""
    return {"clean": run.accuracy(run.splits.test_images, run.splits.test_labels)}
''',
    "samlib/measures/measurement.py": (
        *(
            "from samlib.measures.robustness",
            "from samlib.measures.recall import recall\n",
        ),
        *('    "robustness": ', '    "recall": recall,\n'),
    ),
    "tests/measures/test_recall.py": """from samlib.measures.measurement import MeasureJob, measure
from samlib.records import store
from samlib.records.results_folder import committed
from samlib.study import profiles
from samlib.trainer.one_run import train


def test_recall_is_the_test_accuracy_of_the_run(tmp_path):
    folder, base = committed(tmp_path, "smoke"), profiles.get("smoke").bases["wrn-deep"]
    new = {"geometry": "halved", "mask": "only_first", "member": "every_other"}
    config = base.replace(rho=0.5, **new)
    store.write(folder.runs, train(config, weights=folder.weights(config.run_id)))
    run = store.read(folder.runs)[config.run_id]
    found = measure(MeasureJob(config, "recall"), folder)
    assert found["values"] == {"clean": run["test_accuracy"]}
""",
    "samlib/study/plan.py": (
        "# The most decisive first",
        '''def recall(profile: Profile) -> Needs:
    """The headline runs, and their test accuracy once more."""
    cells = introduction(profile).cells
    return Needs(cells, [ToMeasure(cell, "recall", profile.measured_seeds) for cell in cells])


''',
    ),
}
CHAPTER = {
    "samlib/chapters/recall.py": '''"""Test accuracy of the final weights, by method."""

from statistics import fmean

import pandas as pd

from samlib.report import tidy
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.study import plan


def table(results: Results) -> pd.DataFrame:
    """One row per method."""
    rows = []
    for cell in plan.recall(results.profile).cells:
        found = results.measured(cell, "recall").values()
        accuracy = fmean(values["clean"] for values in found)
        rows.append({"method": method_name(results.profile, cell.method), "recalled": accuracy})
    return tidy.table(rows)


TABLES = {"recall": table}
DECIDES = {}
''',
    "samlib/chapters/__init__.py": (
        *("    rho_sweep,\n    robust_family,\n    robustness,", "    recall,\n"),
        *("    rho_sweep,\n    robustness,\n    cost,", "    recall,\n"),
    ),
    "notebooks/recall.ipynb": "",  # below
    "book/_toc.yml": ("      - file: notebooks/robustness\n", "      - file: notebooks/recall\n"),
    "samlib/study/plan.py": ("        *(one_pass, family", "        recall,\n"),
    "tests/chapters/test_chapter_recall.py": """from samlib.chapters import recall


def test_recall_has_a_row_per_method(smoke):
    table = recall.table(smoke)
    assert [*table["method"]] == ["SGD", "SAM", "SAM-ON"]
    assert table["recalled"].between(0, 100).all(axis=None)
""",
}
RECIPES = {
    "A mask": MASK,
    "A SAM variant": VARIANT,
    "A network": NETWORK,
    "A member of the family": MEMBER,
    "A measure of final weights": MEASURE,
    "A chapter": CHAPTER,
}
# Existing tests that a new line may break, and those of the new lines.
TESTS = (
    *("only_first", "halved", "wrn16_1", "every_other", "recall", "names_of_masks"),
    *("of_the_paper", "dense_reference", "of_the_family_or_a_control", "is_a_system"),
    *("in_the_contents", "table_of_contents", "has_a_module", "those_below_it"),
    *("unknown_one_all_of_it", "differ_have_a_cycle"),
)
PLACES = (
    *("sam/test_masks.py", "sam/test_geometry.py", "sam/test_family.py", "models/test_models.py"),
    *("measures/test_recall.py", "study/test_study.py", "study/test_members.py"),
    *("publish/test_pages.py", "publish/test_notebooks.py", "test_rooms.py"),
    *("chapters/test_chapter_recall.py", "chapters/test_chapter_family.py"),
    *("campaign/test_jobs.py", "trainer/test_launches.py", "bench/test_bench_family.py"),
)
SHOW = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from made_up import made_up_results
from samlib.chapters import CHAPTERS
from samlib.publish import notebooks
from samlib.report.results import load
folder = made_up_results(Path(sys.argv[1]))
results = load("smoke", folder)
for name in ("parts", "variants", "architectures", "family", "recall"):
    print(CHAPTERS[name].TABLES[name](results).to_string(), "----", sep="\\n")
given = {"profile": "smoke", "results": str(folder), "missing": "error"}
notebooks.run("recall", folder / "recall.ipynb", given)
"""


def recall_notebook():
    """The notebook of the chapter on scales, cut down to opening, parameters and one table."""
    notebook = json.loads((ROOT / "notebooks" / "scales.ipynb").read_text())
    opening, parameters, *_ = notebook["cells"]
    opening["source"] = ["# Recall\n"]
    show = {**parameters, "id": "recall0002", "metadata": {}}
    show["source"] = [
        "from samlib.chapters import recall\n",
        "from samlib.report import html\n",
        "from samlib.report.results import open_for_notebook\n",
        "\n",
        'records = open_for_notebook("recall", profile, results, missing)\n',
        "html.show(recall.table(records))",
    ]
    return json.dumps(notebook | {"cells": [opening, parameters, show]})


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project without results, with all recipes followed."""
    folder = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "_build")
    for name in ("samlib", "tests", "notebooks", "book"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    CHAPTER["notebooks/recall.ipynb"] = recall_notebook()
    for recipe in RECIPES.values():
        for path, new in recipe.items():
            write(folder / path, new)
    return folder


def write(path, new):
    if isinstance(new, str):
        assert not path.exists()
        path.write_text(new)
        return
    text = path.read_text()
    for place, added in zip(new[::2], new[1::2], strict=True):
        assert text.count(place) == 1, f"{path.name}: {place!r}"
        text = text.replace(place, added + place)
    path.write_text(text)


def run(copy, *command):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_the_files_that_are_written(name):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    recipe = text.split(f"- **{name}.**")[1].split("\n- **")[0].split("\n\n")[0]
    named = re.findall(r"`((?:samlib|tests|notebooks|book)/[^`]*)`", recipe)
    own = [path for path in named if not path.endswith("/")]
    folders = [f"{path}*" for path in named if path.endswith("/")]
    for path in RECIPES[name]:
        assert path in own or any(fnmatch(path, folder) for folder in folders), path
    for path in own:
        assert path in RECIPES[name]
    for folder in folders:
        assert any(fnmatch(path, folder) for path in RECIPES[name]), folder


@pytest.mark.slow
def test_what_the_recipes_add_are_rows_of_the_smoke_tables(copy, tmp_path):
    parts, variants, networks, family, recall, _ = run(copy, "-c", SHOW, str(tmp_path)).split(
        "----\n"
    )
    assert "only_first" in parts
    assert "halved" in variants
    assert "wrn16_1" in networks
    assert "every_other" in family
    assert "SAM-ON" in recall
    shown = (tmp_path / "recall.ipynb").read_text()
    assert "recalled" in shown  # the column of its table
    assert "text/html" in shown


@pytest.mark.slow
def test_the_tests_pass_in_the_copy(copy):
    options = ("-q", "-o", "addopts=", "-p", "no:cacheprovider", "-k", " or ".join(TESTS))
    said = run(copy, "-m", "pytest", *options, *(f"tests/{place}" for place in PLACES))
    assert re.search(r"\d+ passed", said.splitlines()[-1])
