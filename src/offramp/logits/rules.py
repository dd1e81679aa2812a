"""Say how sure an exit is of its answer, 0 to 1.

In:  its scores, or its state and the one before. Out: one confidence for each row. Pure.
Law: an exit is left where its confidence is above a threshold, so threshold 1 never stops
     (tests/logits/test_rules.py).
Not here: the gate, which is learnt (offramp.blocks.gates); running blocks
     (offramp.decoding.early_exit).
Source: Schuster et al. 2022, "CALM", arXiv:2207.07061, section 3.4 (top-two gap, saturation,
     classifier); Teerapittayanon et al. 2016, "BranchyNet", arXiv:1709.01686 (entropy); Zhou et
     al. 2020, "PABEE", arXiv:2006.04152 (patience).
"""

import math

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity


def top_probability(logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows"]:
    """Give the probability of the best token.

    Example:
        >>> top_probability(torch.tensor([[0.0, 0.0]])).tolist()
        [0.5]
    """
    logits = logits.float()
    return (logits.amax(-1) - logits.logsumexp(-1)).exp().clamp(max=1.0)


def top_gap(logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows"]:
    """Give by how much the best token leads the runner-up, in probability.

    Example:
        >>> top_gap(torch.tensor([[0.0, 0.0]])).tolist()
        [0.0]
    """
    best, second = logits.float().softmax(-1).topk(2, dim=-1).values.unbind(-1)
    return best - second


def certainty(logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows"]:
    """Give 1 minus the entropy's share of what it could be: 1 of one token, 0 of all alike.

    Example:
        >>> certainty(torch.tensor([[0.0, 0.0]])).tolist()
        [0.0]
    """
    logs = logits.float().log_softmax(-1)
    entropy = -(logs.exp() * logs).nan_to_num().sum(-1)
    return (1 - entropy / math.log(logits.shape[-1])).clamp(0.0, 1.0)


def saturation(
    state: Float[Tensor, "*rows width"], before: Float[Tensor, "*rows width"]
) -> Float[Tensor, "*rows"]:
    """Give how little a state has turned since the exit before: their cosine, at least 0.

    Example:
        >>> saturation(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])).tolist()
        [0.0]
    """
    return cosine_similarity(state.float(), before.float(), dim=-1).clamp(0.0, 1.0)
