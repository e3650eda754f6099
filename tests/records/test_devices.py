from helpers import result, run

from samlib.records import store
from samlib.records.devices import kind, mixed, of_other_kind, resumed
from samlib.records.origins import differences

ON_CPU = result(provenance={"gpu": None})
ON_GPU = result(provenance={"gpu": "NVIDIA H100 80GB HBM3"})
ANOTHER = result(provenance={"gpu": "NVIDIA H200"})


def test_records_of_different_kinds_of_device_are_told():
    assert [kind(record) for record in (ON_CPU, ON_GPU)] == ["CPU", "GPU"]
    assert mixed([]) is mixed([ON_CPU] * 2) is mixed([ON_GPU, ANOTHER]) is None
    assert mixed([ON_CPU, ON_GPU, ON_CPU, ANOTHER, ON_CPU]) == (
        "2 of these records were computed on a GPU, 3 on a CPU: their arithmetic differs"
    )


def test_runs_that_ended_elsewhere_than_they_began_are_told():
    gpu = {"processor": "x86_64", "gpu": "NVIDIA H100", "torch": "2.11.0"}
    moved = [result(seed, provenance={"gpu": None, "resumed_from": [gpu]}) for seed in (1, 2)]
    assert resumed([ON_CPU, ON_GPU]) is None
    assert resumed([ON_CPU, *moved]).startswith(f"{moved[0]['run_id']} and 1 more began on another")
    assert differences([ON_CPU, moved[0]]) == [resumed(moved[:1])]


def test_who_adds_to_records_of_the_other_kind_is_told():
    assert of_other_kind([], "cuda") is of_other_kind([ON_CPU], "cpu") is None
    assert of_other_kind([ON_GPU, ANOTHER], "cuda:1") is None
    said = of_other_kind([ON_CPU, ON_GPU, ON_CPU], "cuda")
    assert said.startswith(
        "2 of the 3 records that are there were computed on a CPU and new ones are on a GPU: "
    )
    assert of_other_kind([ON_GPU], "cpu").startswith(
        "1 of the 1 records that are there were computed on a GPU and new ones are on a CPU: "
    )


def test_status_names_the_devices_of_a_mixed_folder(tmp_path, capsys):
    here = {"source": "abc", "commit": None}
    for seed, gpu in ((0, None), (1, "NVIDIA H100")):
        store.write(tmp_path / "smoke" / "runs", result(seed, provenance=here | {"gpu": gpu}))
    code, out, _ = run(capsys, "status", "--profile", "smoke", "--results", str(tmp_path))
    assert code == 0
    assert "1 of these records were computed on a GPU, 1 on a CPU" in out
    assert "Records of different code" not in out
