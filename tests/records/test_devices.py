from helpers import result

from samlib.records.devices import kind, mixed

ON_CPU = result(provenance={"gpu": None})
ON_GPU = result(provenance={"gpu": "NVIDIA H100 80GB HBM3"})
ANOTHER = result(provenance={"gpu": "NVIDIA H200"})


def test_records_of_different_kinds_of_device_are_told():
    assert [kind(record) for record in (ON_CPU, ON_GPU)] == ["CPU", "GPU"]
    assert mixed([]) is mixed([ON_CPU] * 2) is mixed([ON_GPU, ANOTHER]) is None
    assert mixed([ON_CPU, ON_GPU, ON_CPU, ANOTHER, ON_CPU]) == (
        "2 of these records were computed on a GPU, 3 on a CPU: their arithmetic differs"
    )
