"""Search a directed acyclic graph for the text that is likely over all its paths together.

In:  scores of tokens and log-probabilities of jumps. Out: tokens, their number per row, and the
     vertex that wrote each. Pure; nothing is random, no gradient flows.
Law: a wide enough beam equals enumeration of every text; a row does not depend on its batch mates
     (tests/logits/test_dag_beam.py).
Not here: the quick ways (offramp.logits.dag_decode), the loss (offramp.logits.dag).
Paper: Huang et al. 2022, section 3, arXiv:2205.07459.

Differs from the paper: its beam search keeps paths, merges those that wrote the same text and adds
an n-gram model; ours keeps texts, each with its exact sum over all paths, and has no n-gram model.

Shapes: B batch, N canvas, V vocabulary, K beams.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from offramp.errors import ConfigError
from offramp.logits.dag import dag_align
from offramp.logits.dag_decode import Reading, length_divisors, longest_text, nothing_written
from offramp.logits.labels import NO_LABEL, wide


@torch.no_grad()
def dag_beam(
    logits: Float[Tensor, "batch canvas vocab"],
    transitions: Float[Tensor, "batch canvas canvas"],
    *,
    canvas_lengths: Int[Tensor, " batch"],
    pad: int,
    num_beams: int = 5,
    length_penalty: float = 1.0,
    max_length: int | None = None,
) -> Reading:
    """Search for the text that is most probable over all its paths together.

    Each beam is the start of a text and, for every vertex, the probability of having written it
    up to there. A start is worth the probability that has not yet arrived at the last vertex; the
    best ``num_beams`` starts grow by a token, of which every one in the vocabulary is tried. A
    text is complete with the token that the last vertex writes; its probability is then exactly
    that of ``dag_loss``. The search of a row is over when no start can beat its best text.

    Costs K matrix products [N, N] and [N, V] per row and token.

    Args:
        logits: Scores of tokens, need not be normalised.
        transitions: From ``dag_transitions`` or ``dag_mixed_transitions``.
        canvas_lengths: Vertices of each row.
        pad: What fills up the shorter rows.
        num_beams: Starts kept, 1 or more.
        length_penalty: As in ``dag_viterbi``.
        max_length: Most tokens, 2 or more; None allows as many as vertices.

    Returns:
        As the others; the vertices are those of the text's best path.

    Raises:
        ConfigError: ``num_beams`` is below 1 or ``max_length`` below 2.

    Example:
        >>> arcs = torch.tensor([[[0.0, 0.6, 0.4], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]).log()
        >>> size = {"canvas_lengths": torch.tensor([3]), "pad": 0}
        >>> dag_beam(9 * torch.eye(3)[None], arcs, **size)[0].tolist()
        [[0, 1, 2]]
    """
    if num_beams < 1:
        raise ConfigError(f"num_beams must be 1 or more, got {num_beams}; try 5")
    longest = longest_text(max_length, logits.shape[1])
    if not transitions.numel():
        return nothing_written(canvas_lengths)
    beams = _Beams(wide(logits).log_softmax(-1), wide(transitions), canvas_lengths)
    divisors = length_divisors(longest, length_penalty, like=beams.log_probs)
    for count in range(longest):
        beams.finish(divisors[count])
        if count + 1 == longest:
            break
        bound = beams.grow(num_beams) / divisors[count + 1 :].max()
        if not bool((bound > beams.best).any()):
            break
    lengths = (beams.best_text != NO_LABEL).sum(-1)
    text = beams.best_text[:, : int(lengths.max())]
    vertices = dag_align(logits, transitions, text, canvas_lengths=canvas_lengths)
    return text.masked_fill(text == NO_LABEL, pad), lengths, vertices


class _Beams:
    """The starts of texts that one search keeps, and the best complete text of each row."""

    def __init__(
        self,
        log_probs: Float[Tensor, "batch canvas vocab"],
        transitions: Float[Tensor, "batch canvas canvas"],
        canvas_lengths: Int[Tensor, " batch"],
    ) -> None:
        batch, canvas = log_probs.shape[:2]
        self.log_probs, self.probs = log_probs, log_probs.exp()
        self.incoming = transitions.transpose(1, 2).contiguous()
        self.rows = torch.arange(batch, device=log_probs.device)
        self.last = (canvas_lengths.long() - 1).clamp(min=0)
        # [B, K, N]: the start is written, and the next token will be written at v
        self.arriving = log_probs.new_full((batch, 1, canvas), -torch.inf)
        self.arriving[:, 0, :1] = 0.0
        self.arriving[canvas_lengths == 0] = -torch.inf
        self.texts = self.last.new_empty((batch, 1, 0))
        self.best = log_probs.new_full((batch,), -torch.inf)
        self.best_text = self.last.new_empty((batch, 0))

    def finish(self, divisor: Float[Tensor, ""]) -> None:
        """Complete every start at the last vertex; keep a row's best if it beats the one so far."""
        score, token = self.log_probs[self.rows, self.last].max(-1)
        endings = self.arriving[self.rows, :, self.last] + score[:, None]
        rated, beam = (endings / divisor).max(-1)
        text = torch.cat([self.texts[self.rows, beam], token[:, None]], dim=-1)
        so_far = functional.pad(
            self.best_text, (0, text.shape[1] - self.best_text.shape[1]), value=NO_LABEL
        )
        better = rated > self.best
        self.best_text = torch.where(better[:, None], text, so_far)
        self.best = torch.where(better, rated, self.best)

    def grow(self, num_beams: int) -> Float[Tensor, " batch"]:
        """Add a token to the best starts; give the log-probability of each row's best."""
        here = torch.arange(self.arriving.shape[-1], device=self.last.device)
        ended = (here == self.last[:, None])[:, None]
        going = self.arriving.masked_fill(ended, -torch.inf)
        peak = going.amax(-1, keepdim=True)
        peak = peak.masked_fill(peak == -torch.inf, 0.0)
        worth = ((going - peak).exp() @ self.probs).log() + peak
        vocab = worth.shape[-1]
        worth, chosen = worth.flatten(1).topk(min(num_beams, worth[0].numel()))
        beam, token = chosen // vocab, chosen % vocab
        rows = self.rows[:, None]
        self.texts = torch.cat([self.texts[rows, beam], token[..., None]], dim=-1)
        wrote = going[rows, beam] + self.log_probs[rows, :, token]
        self.arriving = (self.incoming[:, None] + wrote[:, :, None]).logsumexp(-1)
        return worth[:, 0]
