"""Drawing cuts what transformers cuts."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TopPLogitsWarper

from offramp.server import sampling
from offramp.server.sampling import Nucleus


@given(
    seed=st.integers(0, 50),
    vocab=st.integers(2, 80),
    top_p=st.sampled_from([0.05, 0.3, 0.9, 0.999]),
    spread=st.sampled_from([0.1, 1.0, 8.0]),
    looked_at=st.sampled_from([1, 4, 512]),
)
def test_the_smallest_set_with_a_probability_is_that_of_transformers(
    seed, vocab, top_p, spread, looked_at
):
    scores = torch.randn(1, vocab, generator=torch.Generator().manual_seed(seed)) * spread
    ids = torch.zeros(1, 1, dtype=torch.long)
    usual, sampling.LOOKED_AT = sampling.LOOKED_AT, looked_at

    cut = Nucleus(top_p)(ids, scores)

    sampling.LOOKED_AT = usual
    assert torch.equal(cut, TopPLogitsWarper(top_p)(ids, scores))
