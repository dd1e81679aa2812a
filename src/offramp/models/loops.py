"""Let a loop of ours write inside ``generate`` of transformers.

In:  a call of ``generate`` with ``EarlyExit``, ``SelfSpeculation`` or ``Autoregressive``. Out: what
     ``generate`` gives, with what the loop noted.
Law: prompts, processors, stopping criteria and seeds are transformers' own
     (tests/decoding/test_loops.py).
Not here: the loops (offramp.decoding).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.generation import GenerationConfig, logits_process
from transformers.utils import ModelOutput

from offramp.blocks.engines import Engine, engine_for
from offramp.blocks.projections import Block, Head, Projection, can_gather
from offramp.blocks.watch import Watched
from offramp.config import ORIGINAL, ExitName
from offramp.decoding.protocol import DecodingLoop
from offramp.decoding.request import Request, Text
from offramp.decoding.steps import write_all
from offramp.errors import ConfigError
from offramp.models.view import View


@dataclass
class LoopOutput(ModelOutput):  # type: ignore[misc]
    """What ``generate(..., return_dict_in_generate=True)`` gives for a loop of ours.

    Rows that ended early are filled with the pad token, -1 (exits), 0 (confidence, blocks).

    Attributes:
        sequences: Prompts and new tokens, [B, T].
        exits: The exit that gave each new token, [B, new]; L is the last layer.
        confidence: How sure it was, [B, new], 0 to 1; 1 where nobody was asked.
        blocks: Blocks that were run for each new token, fills and refused drafts included,
            [B, new]; the first has the prompt's, and of tokens that one step added the first has
            all of that step.
        drafted: Tokens that were drafted, [B].
        accepted: Drafted tokens that were right, [B].
        copied: Drafted tokens that were copied from the text itself, right or not, [B].
    """

    sequences: Int[Tensor, "batch seq"] | None = None
    exits: Int[Tensor, "batch new"] | None = None
    confidence: Float[Tensor, "batch new"] | None = None
    blocks: Int[Tensor, "batch new"] | None = None
    drafted: Int[Tensor, " batch"] | None = None
    accepted: Int[Tensor, " batch"] | None = None
    copied: Int[Tensor, " batch"] | None = None


class LoopParts:
    """What a loop of ours asks of a model with exits."""

    anatomy: Any
    exits: nn.ModuleDict

    @property
    def drafter(self) -> Any:
        """The trained ``offramp.blocks.drafter.Drafter``, or None; set it like any module."""
        model: Any = self
        return model._modules.get("drafter")

    def projections_of(self, exits: Iterable[int]) -> dict[int, Projection]:
        """Give those of some exits that are attached."""
        attached: Any = self.exits
        return {exit: attached[str(exit)] for exit in exits if str(exit) in attached}

    def view_of(self, engine: Engine, states: Mapping[int, Float[Tensor, "rows width"]]) -> View:
        """Let exits speak about states that an engine gave, N tokens in place of positions."""
        anatomy = engine.anatomy
        top = states.get(anatomy.depth)
        return View(
            anatomy=anatomy,
            seen=Watched(
                states=dict(states), head_input=None if top is None else anatomy.finish(top)
            ),
            projections=self.projections_of(states),
            keep=_all,
            base_logits=None,
        )

    def refuse_blocks(self, exits: Iterable[ExitName]) -> None:
        """Refuse exits that run a block of their own, for which our loops keep no cache.

        Raises:
            ConfigError: One of them does.
        """
        attached = self.projections_of(exit for exit in exits if exit != ORIGINAL)
        extra = [exit for exit, each in attached.items() if isinstance(each, Block)]
        if extra:
            raise ConfigError(
                f"exits {extra} are 'block' exits, which our loops do not run; give FixedExit or "
                "Contrast itself as decoding to write with them, or name other exits"
            )

    def head_rows(self, exit: ExitName, tokens: Int[Tensor, " some"]) -> Tensor:
        """Give those rows of an exit's head that score some tokens.

        Raises:
            ConfigError: A token does not exist, or the head holds no plain weight.
        """
        projection = None if exit == ORIGINAL else self.projections_of((exit,)).get(exit)
        head = projection.linear if isinstance(projection, Head) else self.anatomy.head
        if not can_gather(head):
            raise ConfigError(
                f"rows of a {type(head).__name__} cannot be read; leave draft_vocabulary at None"
            )
        weight: Any = head.weight
        if int(tokens.min()) < 0 or int(tokens.max()) >= len(weight):
            raise ConfigError(f"draft_vocabulary must be ids from 0 to {len(weight) - 1}")
        return weight[tokens]  # type: ignore[no-any-return]


REMEMBERING = {
    logits_process.UnbatchedClassifierFreeGuidanceLogitsProcessor: "guidance_scale",
    logits_process.SynthIDTextWatermarkLogitsProcessor: "watermarking_config",
}
"""Processors of transformers that keep something from call to call, and what asks for them."""


def _all(states: Tensor) -> Tensor:
    return states


def run_loop(loop: DecodingLoop, streamer: Any) -> Any:
    """Make what ``generate`` takes as ``custom_generate``.

    Args:
        loop: Writes the texts.
        streamer: Is given the prompt and each token of one text; None is nobody.
    """

    def write(
        model: Any,
        input_ids: Tensor,
        *,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        **inputs: Any,
    ) -> Any:
        _check(generation_config, inputs)
        _check_processors(logits_processor, texts=len(input_ids))
        if streamer is not None:
            if len(input_ids) > 1:
                raise ConfigError(f"a streamer shows one text, got {len(input_ids)}")
            streamer.put(input_ids.cpu())
        pad = generation_config._pad_token_tensor
        request = Request(
            ids=input_ids,
            mask=None if model.config.is_encoder_decoder else inputs.get("attention_mask"),
            processors=list(logits_processor),
            criteria=stopping_criteria,
            do_sample=bool(generation_config.do_sample),
            most=int(stopping_criteria.max_length or generation_config.max_length),
            pad=0 if pad is None else int(pad),
            encoder=_encoder(model, inputs),
            put=None if streamer is None else streamer.put,
        )
        engine = engine_for(model.anatomy, loop.engine)
        texts = write_all(loop.steps(model, engine), request, engine)
        if streamer is not None:
            streamer.end()
        return _output(texts, request, as_dict=bool(generation_config.return_dict_in_generate))

    return write


def _check(config: GenerationConfig, inputs: dict[str, Any]) -> None:
    if config.num_beams and config.num_beams > 1:
        raise ConfigError(
            f"this decoding writes one text at a time, got num_beams={config.num_beams}; use "
            "num_beams=1, or Contrast for beams"
        )
    asked = [
        name
        for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
        if getattr(config, name, None)
    ]
    if asked:
        raise ConfigError(f"{', '.join(asked)}: not kept by this decoding; use exit_logits or None")
    if inputs.get("inputs_embeds") is not None:
        raise ConfigError("this decoding begins with tokens; give input_ids, not inputs_embeds")


def _check_processors(processors: Any, *, texts: int) -> None:
    """Refuse processors that go on from their last call, which was about another text.

    Raises:
        ConfigError: There is one, and more than one text.
    """
    for kind, option in REMEMBERING.items():
        if texts > 1 and any(isinstance(each, kind) for each in processors):
            raise ConfigError(
                f"{option} goes with one text at a time, got {texts}; give them one by one, or "
                "leave decoding to transformers"
            )


def _encoder(model: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Give what a decoder's blocks read of the encoder."""
    if not model.config.is_encoder_decoder:
        return {}
    states = inputs["encoder_outputs"][0]
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


def _output(texts: list[Text], request: Request, *, as_dict: bool) -> Any:
    longest = max(text.length for text in texts)
    sequences = torch.cat([text.shown[:, :longest] for text in texts])
    if not as_dict:
        return sequences
    device = sequences.device
    return LoopOutput(
        sequences=sequences,
        exits=_rows([text.exits for text in texts], fill=-1).to(device),
        confidence=_rows([text.confidence for text in texts], fill=0.0).to(device),
        blocks=_rows([text.blocks for text in texts], fill=0).to(device),
        drafted=torch.tensor([text.drafted for text in texts], device=device),
        accepted=torch.tensor([text.accepted for text in texts], device=device),
        copied=torch.tensor([text.copied for text in texts], device=device),
    )


def _rows(values: list[Any], *, fill: float) -> Tensor:
    longest = max(map(len, values))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in values])
