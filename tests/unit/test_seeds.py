"""What tests draw depends on their name alone, not on the tests before them or the process they run in."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def common():
    """Drawn once for several tests."""
    return torch.rand(3)


@pytest.mark.parametrize("take", ["first", "second"])
def test_draws_are_those_of_the_name(take, common, request):
    def seed(name):
        return zlib.crc32(name.encode())

    own = seed(request.node.name)
    torch.testing.assert_close(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(own)))
    assert np.random.rand() == np.random.RandomState(own).rand()
    assert random.random() == random.Random(own).random()
    torch.testing.assert_close(common, torch.rand(3, generator=torch.Generator().manual_seed(seed("common"))))
