import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import ConfigError
from offramp.logits.dola import bucket, divergence, dola_logits


def scores(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize(
    ("name", "depth", "tied", "expected"),
    [
        ("low", 6, False, (0, 2)),
        ("high", 6, False, (3, 5)),
        ("low", 30, True, (2, 4, 6, 8, 10, 12, 14)),
        ("high", 30, True, (15, 17, 19, 21, 23, 25, 27, 29)),
        ("low", 48, False, tuple(range(0, 20, 2))),
        ("high", 48, False, tuple(range(28, 48, 2))),
        ("low", 2, True, (1,)),
        ("low", 1, True, (0,)),
        ("low", 4, True, (2,)),
    ],
)
def test_buckets_are_those_of_transformers(name, depth, tied, expected):
    assert bucket(name, depth=depth, tied=tied) == expected


def test_unknown_bucket_is_refused():
    with pytest.raises(ConfigError, match="'low', 'high'"):
        bucket("middle", depth=6, tied=False)


@given(seed=st.integers(0, 10**6))
def test_divergence_is_nought_for_equal_layers_and_positive_for_others(seed):
    upper, lower = scores(seed, 3, 40), scores(seed + 1, 3, 40)

    assert torch.allclose(divergence(upper, upper + 5), torch.zeros(3), atol=1e-5)
    assert bool((divergence(upper, lower) > 0).all())


def test_each_row_picks_its_own_layer():
    upper, first, second = scores(0, 6, 40), scores(1, 6, 40), scores(2, 6, 40)

    together = dola_logits(upper, [first, second])
    alone = torch.stack([dola_logits(upper[i], [first[i], second[i]]) for i in range(6)])
    from_first = dola_logits(upper, [first])
    picked_first = (together == from_first).all(-1)

    assert torch.equal(together, alone)
    assert picked_first.any()
    assert not picked_first.all()


def test_unlikely_tokens_are_cut_and_the_best_stays():
    upper = torch.tensor([5.0, 4.0, -9.0])

    result = dola_logits(upper, [torch.zeros(3)])

    assert result[2] == -torch.inf
    assert result[:2].isfinite().all()


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="relative_top"):
        dola_logits(torch.zeros(3), [torch.zeros(3)], relative_top=0)
    with pytest.raises(ConfigError, match="at least one"):
        dola_logits(torch.zeros(3), [])
