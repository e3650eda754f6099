"""A perturbation of wrong parts is refused when it is made."""

import math

import pytest
from conftest import one_line, small_net
from two_norms import ball, two_norms

from samlib import Perturbation, masks
from samlib.errors import ConfigError
from samlib.sam.geometry import L2


@pytest.mark.parametrize("rho", [-1e-9, math.nan, math.inf, True, "0.1", None])
def test_bad_rho(rho):
    with pytest.raises(ConfigError, match="rho must be") as caught:
        Perturbation(L2(), rho, masks.all_parameters(small_net()))
    assert repr(rho) in one_line(caught)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"radius_over": "everything"}, "unknown radius_over 'everything'; valid: mask, all"),
        ({"batchnorm": "second"}, "unknown batchnorm 'second'; valid: both, first"),
        ({"start": -1}, "start is an epoch, counted from 0, not -1"),
        ({"start": 3, "end": 2}, "start 3 and end 2 leave no epoch"),
    ],
)
def test_bad_options(option, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Perturbation(L2(), 0.1, masks.all_parameters(small_net()), **option)
    one_line(caught)


@pytest.mark.parametrize(
    "wrong",
    [{"geometry": "l2"}, {"mask": "only_norm"}, {"start": 1.5}, {"start": None}, {"end": True}],
    ids=str,
)
def test_a_perturbation_of_the_wrong_parts_is_refused(wrong):
    parts = {"geometry": L2(), "rho": 0.1, "mask": masks.only_norm(small_net())}
    with pytest.raises(ConfigError):
        Perturbation(**parts | wrong)


def test_what_is_no_mask_is_named_by_its_type():
    net = two_norms()
    with pytest.raises(ConfigError, match="mask must be a samlib Mask, not <class 'list'>") as e:
        ball(list(net.parameters()))
    one_line(e)
