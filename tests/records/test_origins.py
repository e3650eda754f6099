"""Records of different code in one folder: each place that shows them says so."""

from helpers import result, run

from samlib.provenance import MEASURING, source_digest
from samlib.records import origins, store

OTHER = {"provenance": {"commit": None, "source": "0123456789abcdef"}}


def test_records_of_one_code_are_nothing_to_say():
    assert origins.mixed([]) is None
    assert origins.mixed([result(seed) for seed in range(3)]) is None


def test_records_of_different_code_are_counted_without_git():
    records = [result(0), result(1), result(2, **OTHER)]
    assert origins.mixed(records) == (
        "Records of different code: 2 by code abc, 1 by code 0123456789; "
        "`reproduce` makes all records by one code"
    )


def test_records_of_one_code_and_two_releases_of_torch_are_told_apart():
    old, new = (
        {"provenance": {"source": "abc", "packages": {"torch": v}}} for v in ("2.5", "2.11")
    )
    assert origins.mixed([result(0, **new), result(1, **new)]) is None
    said = origins.mixed([result(0, **new), result(1, **new), result(2, **old)])
    assert "2 by code abc with torch 2.11, 1 by code abc with torch 2.5;" in said


def test_a_run_of_several_workers_is_not_called_that_of_one():
    shared = {"parallel": {"workers": 8, "perturbation": "worker"}}
    said = origins.mixed([result(0), result(1, **shared)])
    assert "1 by code abc on 8 workers (worker perturbation)" in said


def test_who_adds_to_records_of_other_code_is_told():
    ours = {"provenance": {"commit": None, "source": source_digest()}}
    assert origins.of_other_code([result(0, **ours)]) is None
    said = origins.of_other_code([result(0, **ours), result(1, **OTHER)])
    assert said.startswith("1 of the 2 existing records were made by other code (code 012345")
    assert source_digest()[:10] in said


def test_a_measurement_by_other_measuring_code_is_told():
    made = {"source": source_digest(), "measuring": source_digest(MEASURING)}
    ours, other = ({"provenance": made | of} for of in ({}, {"measuring": "fedcba9876543210"}))
    assert origins.of_other_code([result(0, **ours)]) is None
    said = origins.of_other_code([result(0, **ours), result(1, **other)])
    assert said.startswith("1 of the 2 existing records were made by other code (code ")
    assert f"the present one (code {source_digest()[:10]}+{source_digest(MEASURING)[:10]})" in said


def test_workers_that_add_to_records_of_others_are_told():
    two, eight = ({"workers": n, "perturbation": "worker"} for n in (2, 8))
    ours = {"provenance": {"source": source_digest()}}
    there = [result(0, parallel=eight, **ours), result(1, parallel=two, **ours), result(2, **ours)]
    assert origins.of_other_code(there) is None, "one process measures the runs of several"
    assert origins.of_other_code(there[:1], eight) is None
    said = origins.of_other_code(there, eight)
    assert said.startswith("2 of the 3 existing records")
    assert f"the present one (code {source_digest()[:10]} on 8 workers (worker" in said


def test_status_names_the_code_of_a_mixed_folder(tmp_path, capsys):
    runs = tmp_path / "smoke" / "runs"
    for record in (result(0), result(1, **OTHER)):
        store.write(runs, record)
    code, out, _ = run(capsys, "status", "--profile", "smoke", "--results", str(tmp_path))
    assert code == 0
    assert "Records of different code: 1 by code abc, 1 by code 0123456789" in out
