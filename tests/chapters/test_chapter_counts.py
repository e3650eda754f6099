"""The page of counts: nothing is trained for it."""

from samlib import models
from samlib.chapters import counts


def test_the_share_of_norm_parameters_is_counted():
    answer = counts.share(None)
    assert answer.ours.startswith("0.049, 0.090, 0.178, 0.494 and 0.518 %")
    assert (answer.seen, answer.where) == ("partly", "by count")


def test_every_network_is_counted():
    assert len(counts.norm_share()) == len(models.names())
