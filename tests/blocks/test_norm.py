"""A norm of four operations gives what PyTorch's own does."""

import pytest
import torch

from offramp.blocks.engines.norm import Norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("lines", [0, 1, 7])
def test_norm_is_that_of_torch(dtype, size, lines):
    generator = torch.Generator().manual_seed(3)
    states = (torch.randn(lines, 48, generator=generator) * size).to(dtype)
    weight = torch.rand(48, generator=generator).to(dtype)

    found = Norm(weight, 1e-5)(states)

    expected = torch.nn.functional.rms_norm(states, (48,), weight, 1e-5)
    torch.testing.assert_close(found, expected)


def test_zeros_are_divided_by_epsilon():
    assert Norm(torch.ones(4), 1e-6)(torch.zeros(1, 4)).tolist() == [[0.0] * 4]
