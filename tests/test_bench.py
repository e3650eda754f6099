import pytest

from samlib import bench, records
from samlib.errors import ConfigError


def test_contenders_are_timed_together_and_recorded(tmp_path):
    setting = bench.Setting(model="resnet8", batch_size=2, rounds=2)
    record, path = bench.run(setting, tmp_path)
    assert records.read_one(path)["ratios"] == record["ratios"]
    assert record["ratios"]["sgd"] == [1.0, 1.0, 1.0]
    for name in ("sgd again", "all", "only_norm", "blocks_23", "only_norm, floor"):
        low, median, high = record["ratios"][name]
        assert 0 < low <= median <= high
    assert "only_norm" in bench.table(record)


@pytest.mark.parametrize("wrong", [{"model": "resnet"}, {"rounds": 0}, {"batch_size": -1}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        bench.Setting(**wrong)
