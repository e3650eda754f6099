"""The questions asked of a device before hours are spent on it."""

import importlib.util
from pathlib import Path

import pytest

from samlib.provenance import source_digest
from samlib.records import store
from samlib.study import profiles
from samlib.study.methods import BASE
from samlib.trainer.cuda_graphs import WORTH

PATH = Path(__file__).parents[2] / "tools" / "probe.py"


@pytest.fixture
def probe():
    found = importlib.util.spec_from_file_location("probe", PATH)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("device", "answers", "good"),
    [
        ("cpu", [False] * 5, True),
        ("cuda", [True] * 5, True),
        ("cuda", [True, "a step cannot be recorded: no", True, True, True], False),
    ],
)
def test_capture_is_asked_of_every_kind_of_step(probe, monkeypatch, capsys, device, answers, good):
    left = iter(answers)
    monkeypatch.setattr(
        probe, "train", lambda config, device: {"provenance": {"replayed": next(left)}}
    )
    assert probe.capture(device) is good
    assert capsys.readouterr().out.count("replayed: ") == len(probe.CAPTURED) == len(answers)


def test_enough_steps_are_captured_to_be_replayed(probe):
    assert probe._DIGITS.train_size // probe._DIGITS.batch_size >= WORTH


@pytest.fixture
def ask(probe, monkeypatch, tmp_path, capsys):
    """Asks of a profile whose committed base runs ended at 40 %, those here elsewhere."""
    profile = profiles.get("smoke")
    runs = profile.cell(profile.headline, BASE).at(0.0)

    def result(config, accuracy):
        return {
            "run_id": config.run_id,
            "config": config.to_dict(),
            "test_accuracy": accuracy,
            "times": {"wall": 3.0},
        }

    def ask(ends, known=True, source=None):
        for run in runs if known else ():
            store.write(tmp_path / "results" / "smoke" / "runs", result(run, 40.0))
        trained = []

        def train(config, device, data_dir):
            trained.append(config.seed)
            made = {"provenance": {"source": source or source_digest()}}
            return result(config, ends) | made

        monkeypatch.setattr(probe, "train", train)
        arguments = ["accuracy", "--device", "cpu", "--profile", "smoke", "--seeds", "1"]
        places = ["--records", str(tmp_path / "results"), "--out", str(tmp_path / "here")]
        monkeypatch.setattr("sys.argv", ["probe.py", *arguments, *places])
        return probe.main(), trained, capsys.readouterr().out

    return ask


def test_runs_must_end_within_some_points_of_their_records(ask):
    status, trained, said = ask(41.4)
    assert (status, len(trained)) == (0, 1)
    assert "41.40 % here, 3.0 s a run, +1.40 points from 1 records" in said
    assert said.count("have not chosen its rho") == 2, "SAM and SAM-ON have no records"


def test_runs_that_end_elsewhere_are_told(ask):
    assert ask(38.4)[0] == 3


def test_what_was_run_is_read_and_without_records_nothing_is_compared(ask):
    status, trained, said = ask(10.0, known=False)
    assert (status, len(trained)) == (0, 1)
    assert "no record to compare with" in said
    assert ask(99.0, known=False)[1] == []


def test_what_was_run_by_other_code_is_run_again(ask):
    ask(10.0, source="0123456789abcdef")
    status, trained, said = ask(40.0)
    assert (status, len(trained)) == (0, 1)
    assert "40.00 % here" in said
