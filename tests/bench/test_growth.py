import pytest
from conftest import one_line

from samlib import bench
from samlib.bench import growth
from samlib.errors import ConfigError
from samlib.records import store


@pytest.mark.parametrize("workers", [(2, 2), (1, 22), (1000,)])
def test_a_campaign_has_more_runs_than_workers_and_each_number_once(workers):
    with pytest.raises(ConfigError) as caught:
        growth.Setting(workers=workers)
    one_line(caught)
    assert growth.Setting().workers == (1, 2)


@pytest.mark.slow
def test_growth_is_measured_and_recorded(tmp_path):
    setting = growth.Setting(sizes=(12,), cells=1, workers=(1,), nodes=0)
    record, path = bench.run(growth, setting, tmp_path)
    assert path == tmp_path / "bench" / "growth-cpu.json"
    assert store.read_one(path)["reading"] == record["reading"]
    (campaign,) = record["campaigns"]
    assert campaign["runs"] == 2
    assert campaign["runs_per_hour"] > 0
    assert campaign["seconds"]["epochs"] > 0
    assert all(size > 0 for size in record["bytes_per_run"].values())
    assert [(r["records"], r["table_rows"]) for r in record["reading"]] == [(12, 2)]
    text = growth.table(record)
    assert "1 workers: " in text
    assert "12 records of " in text
