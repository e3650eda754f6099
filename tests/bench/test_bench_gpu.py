import pytest
import torch
from conftest import one_line

from samlib import bench
from samlib.__main__ import main
from samlib.bench import epoch, gpu, limits, step
from samlib.errors import ConfigError
from samlib.records import store
from samlib.study import profiles

# Python 3.12 and later warn of the loader's forked processes; they call nothing threads hold.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
TINY = gpu.Setting(networks=(("resnet8", 2),), images=4, rounds=1, device="cpu")


def test_every_question_of_a_network_is_answered_in_one_go(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(limits.SIZES, "cpu", (16, 32))
    record, path = gpu.run(TINY, tmp_path)
    assert store.read_one(path)["answers"] == record["answers"]
    assert path.name == "gpu-cpu.json"
    assert {p.stem for p in (tmp_path / "bench").iterdir()} == {*record["parts"], "gpu-cpu"}
    assert list(record["answers"]) == [
        "SAM-ON / its floor, resnet8:2",
        "plain loop / ours, resnet8:2",
        "share of the matrix rate, resnet8:2",
    ]
    said = capsys.readouterr().out
    assert all(part in said for part in record["parts"])
    # What has been measured is read.
    for kind in (step, epoch):
        monkeypatch.setattr(kind, "measure", None)
    again, _ = gpu.run(TINY, tmp_path)
    assert again["answers"] == record["answers"]


def test_its_steps_are_timed_replayed_and_from_python_beside_floor_and_rate(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(limits.SIZES, "cpu", (16, 32))
    monkeypatch.setattr(step, "on_gpu", lambda device: True)
    monkeypatch.setattr(step, "as_trained", lambda call, device: call)
    record, _ = gpu.run(TINY, tmp_path)
    steps = store.read_one(tmp_path / "bench" / f"{record['parts'][0]}.json")
    said = capsys.readouterr().out.splitlines()
    for name in ("base", "all", "only_norm", "blocks_23"):  # SGD, SAM, SAM-ON, B2+B3
        for what in ("seconds", "plain_seconds", "floors", "utilisation"):
            assert min(steps[what][name]) > 0
        line = next(line for line in said if line.startswith(f"  {name} "))
        assert f"({steps['floors'][name][1]:.2f})" in line
        assert f"{1000 * steps['plain_seconds'][name][1]:.2f} ms from Python" in line
        assert "% of the matrix rate" in line


OTHER = {"source": "0", "commit": "0", "packages": {}, "gpu": "X", "processor": "Y"}
OTHER["replayed"] = True


@pytest.mark.parametrize("what", ["setting", "damaged", *OTHER])
def test_what_was_measured_otherwise_is_measured_anew(tmp_path, monkeypatch, what):
    kind, setting = TINY.parts()[0]
    name = kind.name(setting.config, torch.device("cpu"))
    provenance = gpu.made_by(torch.device("cpu"), False)
    kept = {"run_id": name, "setting": vars(setting), "provenance": provenance}
    path = store.write(tmp_path / "bench", kept)
    monkeypatch.setattr(bench, "run", lambda kind, setting, results: ("anew", path))
    assert gpu._measured(kind, setting, tmp_path)["run_id"] == name
    if what == "damaged":
        path.write_text("{")
    else:
        part = "setting" if what == "setting" else "provenance"
        changed = {"rounds": 7} if what == "setting" else {what: OTHER[what]}
        store.write(tmp_path / "bench", kept | {part: kept[part] | changed})
    assert gpu._measured(kind, setting, tmp_path) == "anew"


def test_answers_are_ratios_of_what_the_records_hold():
    network = {"model": "wrn28_10", "batch_size": 128}
    timed = {
        "network": network,
        "floors": {"only_norm": [1.0, 1.6, 2.0]},
        "ratios": {"only_norm": [1.6, 1.76, 2.4]},
    }
    trained = {
        "network": network,
        "ratios": {"ours": [1.0] * 3, "plain loop": [2.0] * 3, epoch.WITHOUT_TF32: [4.0] * 3},
        "utilisation": [0.1, 0.2, 0.3],
    }
    found = gpu.answers([timed, trained])
    over_floor = found.pop("SAM-ON / its floor, wrn28_10:128")
    assert over_floor == pytest.approx([1.0, 1.1, 1.5])
    assert found == {
        "plain loop / ours, wrn28_10:128": [2.0] * 3,
        "plain loop without TF32 / ours, wrn28_10:128": [4.0] * 3,
        "share of the matrix rate, wrn28_10:128": [0.1, 0.2, 0.3],
    }
    assert gpu._line("SAM-ON / its floor, any:1", over_floor).endswith("at most 1.05: not met")
    lines = [gpu._line(*answer) for answer in found.items()]
    assert lines[0].endswith("at least 2: met")
    assert lines[1].endswith("at least 5: not met")
    assert lines[2].endswith("[0.100, 0.300]"), "aimed at for a batch of 512 only"


def test_every_target_is_asked_for():
    questions = [f"SAM-ON / its floor, {m}:{b}" for m, b in gpu.NETWORKS]
    peers = ("plain loop", epoch.WITHOUT_TF32)
    questions += [f"{peer} / ours, {m}:{b}" for peer in peers for m, b in gpu.NETWORKS]
    questions += [f"share of the matrix rate, {m}:{b}" for m, b in gpu.NETWORKS]
    aimed = {question for question in questions if gpu.target(question)}
    assert len(aimed) == len(gpu.NETWORKS) + 3


def test_networks_are_the_evidences_and_the_papers():
    profile = profiles.get("cifar100-45k")
    evidence = profile.bases[profile.headline]
    evidences = (evidence.model, evidence.batch_size)
    papers = [("wrn28_10", 128), ("wrn28_10", 512)]
    assert [evidences, ("resnet56", 128), ("wrn16_4", 128), *papers] == [*gpu.NETWORKS]


def test_parts_are_what_a_gpu_computes():
    found = [setting for _, setting in gpu.Setting().parts()]
    assert {setting.config.precision for setting in found} == {"bf16"}
    assert all(setting.count // setting.batch_size >= 25 for setting in found[1::2])
    assert [setting.rounds for setting in found[:2]] == [10, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"networks": (("resnet", 8),)},
        {"networks": (("resnet8", 0),)},
        {"rounds": 0},
        {"images": 0},
        {"threads": 0},
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ConfigError) as caught:
        gpu.Setting(**wrong)
    one_line(caught)


def test_without_a_kind_the_command_line_asks_all_of_a_gpu(monkeypatch, tmp_path, capsys):
    given = []

    def run(setting, results):
        given.append(setting)
        return {}, results / "record.json"

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "table", lambda record: "answers")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["bench", "--networks", "resnet8:2,wrn10_1:4", "--results", str(tmp_path)]) == 0
    assert given == [gpu.Setting(networks=(("resnet8", 2), ("wrn10_1", 4)))]
    with pytest.raises(SystemExit):
        main(["bench", "--networks", "resnet8"])
    assert "'resnet8' is not a list such as" in capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_is_asked(tmp_path):
    setting = gpu.Setting(networks=(("resnet8", 64),), images=1600, rounds=2)
    record, _ = gpu.run(setting, tmp_path)
    assert record["provenance"]["replayed"] is True
    assert "plain loop without TF32 / ours, resnet8:64" in record["answers"]
