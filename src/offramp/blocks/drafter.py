"""Guess the token after next from what the last layer made of the last token but one.

In:  what the head read at the last position that was checked, and the embedding of the token that
     came out. Out: a guess at what the head will read at that token's position; so it can be given
     back for the token after, and the base's own head reads it.
Not here: training (recipes/default_drafter), drafting (offramp.decoding.drafts).
Source: Li et al. 2024, "EAGLE", arXiv:2401.15077. Differs: no attention and so no cache, as in
     Ankner et al. 2024, "Hydra", arXiv:2402.05109; the head scores the most frequent tokens only
     (Zhao et al. 2025, "FR-Spec", arXiv:2502.14856).
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Float
from torch import Tensor, nn

from offramp.blocks.products import product


class Drafter(nn.Module):
    """One gated unit over a joined state and embedding.

    Args:
        width: D, of what the head reads and of the embeddings.
        hidden: Width of the gated unit.
        num_tokens: C, how many tokens it can guess.

    Attributes:
        tokens: Which tokens, [C].

    Example:
        >>> drafter = Drafter(width=8, hidden=16, num_tokens=5)
        >>> drafter(torch.randn(3, 8), torch.randn(3, 8)).shape
        torch.Size([3, 8])
    """

    tokens: Tensor

    def __init__(self, *, width: int, hidden: int, num_tokens: int) -> None:
        super().__init__()
        self.state_norm = nn.RMSNorm(width, eps=1e-5)
        self.token_norm = nn.RMSNorm(width, eps=1e-5)
        self.join = nn.Linear(2 * width, width, bias=False)
        self.unit_norm = nn.RMSNorm(width, eps=1e-5)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.last_norm = nn.RMSNorm(width, eps=1e-5)
        self.register_buffer("tokens", torch.zeros(num_tokens, dtype=torch.long))

    def forward(
        self, finished: Float[Tensor, "*rows width"], embedded: Float[Tensor, "*rows width"]
    ) -> Float[Tensor, "*rows width"]:
        """Guess what the head will read at the next position.

        Args:
            finished: What it read at the last one, or the last guess.
            embedded: Embedding of the token that it chose there.
        """
        joined = torch.cat((self.state_norm(finished), self.token_norm(embedded)), dim=-1)
        state = product(joined, self.join.weight)
        normed = self.unit_norm(state)
        unit = F.silu(product(normed, self.gate.weight)) * product(normed, self.up.weight)
        state = state + product(unit, self.down.weight)
        return self.last_norm(state)  # type: ignore[no-any-return]
