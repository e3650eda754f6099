"""Bad input: whatever is given, it works or is refused in one line, and never ends in a traceback.

`SAMLIB_FUZZ=3000` in the environment tries as many cases of each kind and other ones every time;
without it a small number, always the same.
"""

import argparse
import ast
import copy
import json
import os
import warnings
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import small_batch, small_net
from helpers import ANYTHING, FIELDS, OTHER, result
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from samlib import Perturbation, geometry, masks, perturbed, sam_step
from samlib.__main__ import main
from samlib.campaign.jobs import Outcome
from samlib.cli.flags import parser
from samlib.data.info import INFO
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


@given(
    st.dictionaries(st.sampled_from(sorted(FIELDS)) | TEXT, ANYTHING | JSON, max_size=4),
    st.lists(st.sampled_from(sorted(FIELDS)), max_size=6),
)
@cases(150)
def test_a_configuration_of_anything_works_or_is_refused(wild, tame):
    fields = {field: OTHER[field] for field in tame} | wild
    if refused(lambda: RunConfig.from_dict(fields), ConfigError):
        return
    config = RunConfig.from_dict(fields)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False))) == config
    assert config.run_id == RunConfig(**config.to_dict()).run_id


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


# --- training around the step --------------------------------------------------------------------

RHO, LR = 0.3, 0.1
SITUATIONS = st.fixed_dictionaries(
    {
        "mask": st.sampled_from(["only_norm", "no_norm", "all"]),
        "over": st.sampled_from(["mask", "all"]),
        "batchnorm": st.sampled_from(["both", "first"]),
        "start": st.sampled_from([0, 0, 2]),
        "epoch": st.sampled_from([*[0, 2] * 5, None, "2"]),
        "later": st.sampled_from([*["nothing", "replaced"] * 6, "frozen", "unfrozen", "half"]),
        "cast": st.sampled_from([*[torch.float64] * 12, torch.float16]),
        "closure": st.sampled_from([*["loss"] * 30, "backward", "detached", "vector", "text"]),
        "frame": st.sampled_from([*["step", "block"] * 5, "step inside", "write inside"]),
        "optimizer": st.sampled_from([*["one", "two"] * 8, "twice", "keeps", "lbfgs"]),
    }
)


class Keeps(torch.optim.SGD):
    """Accumulates: nothing is dropped yet."""

    def zero_grad(self, set_to_none=True):
        pass


def optimizers_of(net, kind):
    weights = list(net.parameters())
    sgd = torch.optim.SGD(weights, lr=LR)
    return {
        "one": sgd,
        "two": [torch.optim.SGD(weights[::2], lr=LR), torch.optim.SGD(weights[1::2], lr=LR)],
        "twice": [sgd, sgd],
        "keeps": Keeps(weights, lr=LR),
        "lbfgs": torch.optim.LBFGS(weights),
    }[kind]


def must_refuse(at):
    """Whether a situation has no right value."""
    whole = at["frame"] == "step"
    active = at["start"] <= (2 if at["epoch"] == "2" else at["epoch"] or 0)
    return (
        (at["epoch"] is None and at["start"] > 0)
        or at["epoch"] == "2"
        or at["closure"] != "loss"
        or at["cast"] == torch.float16
        or (at["later"] == "unfrozen" and (at["mask"] != "no_norm" or at["over"] == "all"))
        or (at["later"] in ("frozen", "half") and active)
        or (whole and at["optimizer"] in ("twice", "keeps", "lbfgs"))
        or (at["frame"].endswith("inside") and active)
    )


def loss_at(net, weights, x, y):
    return F.cross_entropy(functional_call(net, weights, (x,)), y)


def right_step(net, masked, at, x, y):
    """Weights and buffers after a step by the formula, from autograd on a copy of the network."""
    net, active = copy.deepcopy(net), at["start"] <= (at["epoch"] or 0)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}

    def gradient(weights):
        weights = {n: w.clone().requires_grad_() for n, w in weights.items()}
        found = torch.autograd.grad(loss_at(net, weights, x, y), [*weights.values()])
        return dict(zip(weights, found, strict=True))

    slope = gradient(before)
    buffers = {n: b.clone() for n, b in net.named_buffers()}
    over = masked if at["over"] == "mask" else [n for n, p in net.named_parameters()]
    length = torch.cat([slope[n].flatten() for n in over]).norm()
    away = {n: w + RHO * slope[n] / length if n in masked else w for n, w in before.items()}
    if active or at["frame"] != "step":
        slope = gradient(away if active else before)
    if at["batchnorm"] == "both":
        buffers = dict(net.named_buffers())
    trainable = {n: p.requires_grad for n, p in net.named_parameters()}
    return {n: w - LR * slope[n] * trainable[n] for n, w in before.items()} | buffers


@given(SITUATIONS)
@cases(100)
def test_any_training_around_the_step_is_right_or_refused_in_one_line(at):
    """Right: each weight and each running statistic is that of the formula, in float64."""
    if at["frame"] != "step":
        at["optimizer"] = "two" if at["optimizer"] == "two" else "one"
    net, (x, y) = small_net(torch.float64), small_batch(torch.float64)
    if at["later"] == "unfrozen":
        net.norm1.requires_grad_(False)
    mask = masks.MASKS[at["mask"]](net, RunConfig())
    options = {"radius_over": at["over"], "batchnorm": at["batchnorm"], "start": at["start"]}
    ball = Perturbation(geometry.L2(), RHO, mask, **options)
    masked = [e.name for e in mask.entries]
    if at["later"] == "unfrozen":
        net.norm1.requires_grad_(True)
    elif at["later"] == "frozen":
        mask.entries[0].parameter.requires_grad_(False)
    elif at["later"] == "half":
        net.to(torch.bfloat16)
    elif at["later"] == "replaced":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    optimizers, before = optimizers_of(net, at["optimizer"]), copy.deepcopy(net.state_dict())
    first, dtype = mask.entries[0].parameter, net.conv1.weight.dtype

    def loss():
        return F.cross_entropy(net(x.to(dtype)).to(at["cast"]).double(), y)

    def closure():
        found = loss()
        if at["closure"] == "backward":
            found.backward(retain_graph=True)
        odd = {"detached": found.detach(), "vector": found.expand(2), "text": "loss"}
        return odd.get(at["closure"], found)

    def step():
        if at["frame"] == "step":
            sam_step(closure, optimizers, ball, epoch=at["epoch"])
            return
        several = optimizers if isinstance(optimizers, list) else [optimizers]
        with perturbed(closure, ball, plan=ball.plan(at["epoch"])):
            net.zero_grad()
            loss().backward()
            if at["frame"] == "write inside":
                with torch.no_grad():
                    first.mul_(1)
            if at["frame"] == "step inside":
                [each.step() for each in several]
        if at["frame"] != "step inside":
            [each.step() for each in several]

    refuses = must_refuse(at)
    want = before if refuses else right_step(net, masked, at, x, y) if dtype == x.dtype else None
    assert refused(step, ConfigError) is refuses
    if want is not None:
        torch.testing.assert_close(net.state_dict(), want, rtol=1e-9, atol=1e-12)


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
    "problem": [*profiles.get("quick").bases],
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
    from papermill.translators import PythonTranslator  # three seconds for whoever imports it

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
        lambda needs, place, **options: written.append(place) or Outcome(),
    ):
        assert refused(lambda: results.open_for_notebook("variants", profile, folder, missing)), (
            "there is no record"
        )
    for place in written:
        assert missing == "train"
        assert place.path.resolve().is_relative_to(elsewhere)
        assert place.path == elsewhere / folder / "smoke"
