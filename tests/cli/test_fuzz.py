"""Bad input: whatever is given, it works or is refused in one line, and never ends in a traceback.

`SAMLIB_FUZZ=3000` in the environment tries as many cases of each kind and other ones every time;
without it a small number, always the same.
"""

import argparse
import ast
import json
import os
import warnings
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import small_net
from helpers import ANYTHING, FIELDS, OTHER, result
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from papermill.translators import PythonTranslator

from samlib import masks
from samlib.__main__ import main
from samlib.campaign.jobs import Outcome
from samlib.cli.flags import parser
from samlib.data.datasets import INFO
from samlib.errors import ConfigError, SamlibError
from samlib.publish import notebooks
from samlib.records import store
from samlib.records.store import RecordError
from samlib.report import results
from samlib.sam.geometry import GEOMETRIES
from samlib.study import profiles
from samlib.trainer.config import OPTIMIZERS, RunConfig
from samlib.trainer.one_run import train, usable_device

CASES = int(os.environ.get("SAMLIB_FUZZ", "0"))


def cases(few):
    """So many examples in the suite, and `CASES` on demand."""
    return settings(
        max_examples=CASES or few,
        derandomize=not CASES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# Line breaks are left out: a path that holds one is told as it is.
TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), exclude_characters="/."), max_size=9
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def refused(call, kind=SamlibError):
    """Whether a call was refused with an error of this kind; its message must be one line."""
    try:
        call()
    except kind as error:
        said = str(error)
    else:
        return False
    assert said
    assert len(said.splitlines()) == 1
    return True


# --- configurations ------------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)) | TEXT, ANYTHING | JSON, max_size=4))
@cases(100)
def test_a_configuration_of_anything(fields):
    refused(lambda: RunConfig.from_dict(fields), ConfigError)


EXTREME = st.floats(0, 1) | st.floats(0, 10) | st.floats(0, 1e18)


@given(
    st.fixed_dictionaries(
        {
            "train_size": st.integers(1, 40),
            "batch_size": st.integers(1, 24),
            "geometry": st.sampled_from(["none", *sorted(GEOMETRIES)]),
        },
        optional={
            "model": st.sampled_from(["wrn10_1", "resnet8", "vit_micro", "resnext11_4x2d"]),
            "mask": st.sampled_from(sorted(masks.MASKS)),
            "optimizer": st.sampled_from(OPTIMIZERS),
            "augment": st.sampled_from(["none", "shift", "basic", "autoaugment"]),
            "sparsity": st.floats(0, 1),
            "radius_over": st.sampled_from(["mask", "all"]),
            "batchnorm": st.sampled_from(["both", "first"]),
            "updated": st.sampled_from(["all", "no_norm"]),
            "decayed": st.sampled_from(["all", "no_norm"]),
            "precision": st.sampled_from(["fp32", "bf16"]),
            "seed": st.integers(0, 2**32 - 1),
            "epochs": st.integers(1, 2),
            "start": st.integers(0, 2),
            "end": st.integers(0, 2),
            "validation_size": st.integers(0, 1750),
            "mask_samples": st.integers(1, 50),
            "mask_every": st.integers(1, 2),
            "eval_every": st.integers(1, 3),
            **dict.fromkeys(("rho", "eta", "lr", "momentum", "weight_decay"), EXTREME),
            **dict.fromkeys(("label_noise", "label_smoothing"), st.floats(0, 1)),
        },
    )
)
@cases(40)
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of SSAM-F's scores
def test_a_run_of_any_configuration_ends_in_a_record_or_one_line(fields):
    ended = []
    if not refused(lambda: ended.append(train(RunConfig(**fields))), ConfigError):
        (record,) = ended
        json.dumps(record, allow_nan=False)
        assert record["status"] in ("completed", "diverged")


# --- masks ---------------------------------------------------------------------------------------

NET = small_net()
SHAPES = {name: tuple(p.shape) for name, p in NET.named_parameters()}
RANDOM = {name: p.detach().abs() for name, p in NET.named_parameters()}
TENSORS = st.builds(
    lambda shape, kind: torch.zeros(shape).to(kind),
    st.sampled_from([*SHAPES.values(), (), (0,), (3, 1)]),
    st.sampled_from([torch.bool, torch.uint8, torch.float32, torch.int64]),
)
FITTING = st.sampled_from(sorted(SHAPES)).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from([0.0, 0.2, 100.0])).map(
        lambda drawn: (drawn[0], RANDOM[drawn[0]] < drawn[1])
    )
)
NO_TENSORS = st.sampled_from([None, True, [True], np.ones(3, bool), "all"])


@given(
    st.lists(FITTING, max_size=4),
    st.dictionaries(st.sampled_from(sorted(SHAPES)) | TEXT, TENSORS | NO_TENSORS, max_size=1),
)
@cases(100)
def test_a_mask_of_any_booleans(fitting, wild):
    made, chosen = [], dict(fitting) | wild
    if not refused(lambda: made.append(masks.from_booleans(NET, chosen)), ConfigError):
        assert made[0].count == sum(int(tensor.sum()) for tensor in chosen.values()) > 0


# --- record files --------------------------------------------------------------------------------

GOOD = {"format": store.FORMAT, **result()}
DEEP = st.integers(1, 100_000).map(lambda n: b"[" * n)


def sealed(record):
    """A record as JSON with the checksum that fits it, as far as there is one."""
    try:
        return json.dumps(record | {"checksum": store._checksum(record)}).encode()
    except ValueError:
        return json.dumps(record).encode()


@given(
    st.one_of(
        st.binary(max_size=50),
        DEEP,
        JSON.map(lambda value: json.dumps(value).encode()),
        st.dictionaries(st.sampled_from([*GOOD, "checksum"]), JSON).map(
            lambda changes: json.dumps(GOOD | changes).encode()
        ),
        st.dictionaries(st.sampled_from([*GOOD, "checksum"]), JSON).map(
            lambda changes: sealed(GOOD | changes)
        ),
        st.tuples(st.integers(0, 400), st.integers(0, 400)).map(
            lambda cut: sealed(GOOD)[: cut[0]] + sealed(GOOD)[cut[0] + cut[1] :]
        ),
    )
)
@cases(300)
def test_a_record_file_of_anything(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "fuzzed" / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{GOOD['run_id']}.json"
    path.write_bytes(content)
    damaged = refused(lambda: store.read_one(path), RecordError)
    if not damaged:
        record = json.loads(content)
        assert record["checksum"] == store._checksum(record)
        assert (record["run_id"], record["format"]) == (path.stem, store.FORMAT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert len(store.read(folder)) == (not damaged)
        except store.FormatError:
            assert damaged


# --- command lines -------------------------------------------------------------------------------


def flags():
    """The flags and positions of every verb, from the parser itself; bench times for minutes."""
    (verbs,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {
        verb: [action for action in p._actions if action.dest != "help"]
        for verb, p in verbs.choices.items()
        if verb != "bench"
    }


FLAGS = flags()
PATHS = ["", "made/deeper", "file", "file/below", "n" * 300, "/dev/null/below", "/proc/none"]
APT = {
    "profile": [*profiles.PROFILES],
    "name": [*notebooks.names()],
    "only": [*notebooks.names()],
    "family": [*profiles.get("quick").bases],
    "device": ["cpu"],
    "dataset": [*INFO],
    "p": ["profile", "results", "missing", "smoke", "made", "error"],
    **dict.fromkeys(("results", "book", "output", "data"), PATHS),
} | {name: [str(value)] for name, value in OTHER.items() if name != "dataset"}
ODD = st.one_of(
    TEXT,
    st.sampled_from([*(word for words in APT.values() for word in words), "cuda", "--", "-"]),
    st.integers().map(str),
    st.floats().map(str),
    st.builds("{}{}".format, st.floats(0, 1e300), st.sampled_from("smhd")),
    st.integers(1, 50_000).map(lambda n: "[" * n),
)
SELDOM = st.sampled_from([False] * 5 + [True])


@st.composite
def command_lines(draw):
    """A verb with some of its flags, most of them well-formed."""
    verb = draw(st.sampled_from([*FLAGS, *FLAGS, "bench", "runn"]))
    known = FLAGS.get(verb, FLAGS["run"])
    words = [verb]
    for action in [a for a in known if not a.option_strings] + draw(
        st.lists(st.sampled_from(known), max_size=4)
    ):
        words += action.option_strings[-1:]
        apt = st.sampled_from(APT[action.dest]) if action.dest in APT else ODD
        for _ in range(0 if action.nargs == 0 else action.nargs or 1):
            words.append(draw(ODD if draw(SELDOM) else apt))
    if draw(SELDOM):
        words.insert(draw(st.integers(0, len(words))), draw(ODD))
    return words


def no_training(config, *, device, **options):
    usable_device(device)
    return {"run_id": config.run_id}


def copied(path, output, **options):
    Path(output).write_text(Path(path).read_text())


def offline(*arguments):
    raise OSError("offline")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder that stands for the project's; in it nothing trains, downloads or is executed."""
    folder, before = tmp_path_factory.mktemp("elsewhere"), Path.cwd()
    (folder / "file").write_text("no folder")
    os.chdir(folder)
    with ExitStack() as patches:
        for name, stand_in in {
            "samlib.files.project_root": lambda: folder,
            "samlib.campaign.runner.run_missing": lambda needs, campaign, **options: Outcome(),
            "samlib.trainer.one_run.train": no_training,
            "samlib.data.datasets._download": offline,
            "samlib.publish.book.build": lambda results, output, names=None: output,
            "samlib.cli.watch.watch": lambda *arguments, **options: 0,
            "papermill.execute_notebook": copied,
        }.items():
            patches.enter_context(mock.patch(name, stand_in))
        yield folder
    os.chdir(before)


@given(words=command_lines())
@example(words=["notebook", "variants", "--output", ""])
@example(words=["prepare", "--dataset", "cifar10", "--data", "n" * 300])
@example(words=["status", "--profile", "imagenet"])
@example(words=["notebook", "variants", "-p", "profile", "[" * 50_000])
@cases(150)
def test_a_command_line_of_anything(elsewhere, capsys, words):
    with warnings.catch_warnings():  # `main` prints them
        warnings.simplefilter("default")
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    said = [line for line in capsys.readouterr().err.splitlines() if "warning: " not in line]
    assert code in (0, 2)
    assert len(said) == (code == 2), said


# --- notebooks -----------------------------------------------------------------------------------


@given(
    st.sampled_from(notebooks.names()) | TEXT,
    st.dictionaries(st.sampled_from(["profile", "results", "missing", "notebook"]) | TEXT, JSON),
)
@cases(60)
def test_a_notebook_with_any_parameters(elsewhere, name, given_):
    """What gets through the door reaches the notebook as a value, never as code."""
    passed = []
    with (
        mock.patch(
            "papermill.execute_notebook",
            lambda path, output, parameters, **options: (
                passed.append(parameters) or copied(path, output)
            ),
        ),
        mock.patch.object(notebooks, "_lacking", return_value=None),  # a copy shows nothing
    ):
        if refused(lambda: notebooks.run(name, elsewhere / "out.ipynb", given_), ConfigError):
            assert not passed
            return
    assert passed == [given_]
    assert set(given_) <= set(notebooks.parameters(name))
    for line in ast.parse(PythonTranslator.codify(given_)).body:
        assert isinstance(line, ast.Assign)
        calls = [node.func.id for node in ast.walk(line) if isinstance(node, ast.Call)]
        assert set(calls) <= {"float"}  # nan and inf
        value = given_[line.targets[0].id]
        if not calls:
            assert ast.literal_eval(line.value) == value


PLACES = ["made", "made/../..", "..", "/", "/dev/null", "../made", "n" * 300, "a\0b", "file"]


@given(
    profile=st.just("smoke") | st.sampled_from(["../smoke", "smoke/../x", ".", None, []]) | JSON,
    folder=st.sampled_from(PLACES) | TEXT | JSON,
    missing=st.sampled_from(["train", "error"]) | st.just("tra\nin") | JSON,
)
@cases(100)
def test_no_parameter_has_a_notebook_write_outside_the_project(elsewhere, profile, folder, missing):
    written = []
    with mock.patch(
        "samlib.campaign.runner.run_missing",
        lambda needs, place, **options: written.append(place),
    ):
        assert refused(lambda: results.open_for_notebook("variants", profile, folder, missing)), (
            "there is no record"
        )
    for place in written:
        assert missing == "train"
        assert place.path.resolve().is_relative_to(elsewhere)
        assert place.path == elsewhere / folder / "smoke"
