"""What the workers of a campaign need to know of a job."""

from samlib import models
from samlib.campaign.jobs import GPU_SHARE, RunJob, gpu_share
from samlib.measures.measurement import MeasureJob
from samlib.trainer.config import RunConfig


def test_networks_take_a_share_of_a_gpu_and_an_unknown_one_all_of_it(monkeypatch):
    assert set(GPU_SHARE) <= set(models.names())
    assert all(0 < share <= 1 for share in GPU_SHARE.values())
    monkeypatch.delitem(GPU_SHARE, "resnet8")
    assert gpu_share(RunJob(RunConfig(model="resnet8"))) == 1


def test_a_measurement_takes_as_much_as_its_run():
    config = RunConfig(model="resnet8")
    assert gpu_share(RunJob(config)) == gpu_share(MeasureJob(config, "sharpness")) == 0.25
