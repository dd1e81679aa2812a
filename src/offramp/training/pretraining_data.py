"""Corrupt rows as they are read, and pad them into batches.

In:  rows of tokens, stored or streamed. Out: batches of corrupted sources, clean targets, and the
     exit of each place of their canvases.
Law: what a row becomes depends on the seed, the epoch and the row's number, and neither on workers
     nor on processes, order or batch mates (tests/training/test_pretraining.py).
Not here: where rows come from (offramp.training.pretraining_text), noise (offramp.training.noise).
Source: Li et al. 2022, "ELMER", arXiv:2210.13304, section 3.4. Differs from the released code: that
     trained on ten copies that were corrupted beforehand, on canvases of just the target's length,
     so that the end token was always the last. Here a canvas is as long as something between that
     and the size that its source gives, unless ``canvas_slack`` is off; the exits of the places
     behind the target are drawn like the others, since places that never leave would tell where the
     target ends.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from offramp.errors import CheckpointError, ConfigError, InputError
from offramp.models.elmer import ElmerConfig
from offramp.models.elmer.canvas import NO_PLACE, drawn_sizes
from offramp.training.data import Collator
from offramp.training.noise import Fill, corrupt, draw_exits, row_generator
from offramp.training.packing import Tokens
from offramp.training.pretraining_settings import Noise
from offramp.training.pretraining_text import Lexicon, lexicon_of


@dataclass(frozen=True, kw_only=True)
class Corruptor:
    """Makes an exercise of a row.

    Attributes:
        lexicon: What is known of the tokens.
        noise: How much is corrupted.
        mask: The mask token.
        config: Of an ELMER model, for the exits of its decoder and the sizes of its canvases; None
            draws neither.
        longest: Text that fits, in tokens.
        seed: Decides everything that is drawn.
    """

    lexicon: Lexicon
    noise: Noise
    mask: int
    config: ElmerConfig | None
    longest: int
    seed: int

    def __call__(self, tokens: Sequence[int], *, epoch: int, row: int) -> Tokens:
        """Give ``input_ids``, ``labels`` and, where exits are drawn, ``exits`` of a whole canvas.

        Args:
            tokens: Text, without the special tokens around it.
            epoch: How often it was read before.
            row: Its number.

        Raises:
            InputError: It is longer than the model can read or write.
        """
        if len(tokens) > self.longest:
            raise InputError(
                f"row {row} has {len(tokens)} tokens of text, the model has room for "
                f"{self.longest}; cut rows shorter"
            )
        clean, lexicon = torch.tensor(tokens, dtype=torch.int64), self.lexicon
        generator = row_generator(self.seed, epoch=epoch, row=row)
        noisy = corrupt(
            clean,
            marks=lexicon.marks(clean),
            noise=self.noise,
            fill=Fill(mask=self.mask, others=lexicon.others),
            generator=generator,
        )
        source = noisy[: self.longest].tolist()  # masks that were put in may make it longer
        exercise = {
            "input_ids": [*lexicon.before, *source, *lexicon.after],
            "labels": [*lexicon.before, *clean.tolist(), *lexicon.target_after],
        }
        if self.config is not None:
            read, written = (
                torch.tensor([len(exercise[name])]) for name in ("input_ids", "labels")
            )
            size = int(drawn_sizes(self.config, read, written, generator))
            depth = self.config.decoder_layers
            exits = draw_exits(batch=1, canvas=size, depth=depth, generator=generator)
            exercise["exits"] = exits[0].tolist()
        return exercise


def corruptor_for(config: Any, tokenizer: Any, *, noise: Noise, seed: int) -> Corruptor:
    """Give what makes the exercises of a model.

    Args:
        config: Of the model, an ``ElmerConfig``. Exits are drawn for a ``plain`` head; others have
            no place for each target token, and learn to undo the noise at their last exit.
        tokenizer: Of the model.
        noise: How much is corrupted.
        seed: Decides everything that is drawn.

    Raises:
        CheckpointError: The tokenizer is not the model's own.
        ConfigError: It has no end token, or the mask is a token of a text.
    """
    lexicon = lexicon_of(tokenizer)
    known, mask = config.vocab_size, config.mask_token_id
    if len(lexicon.special) > known:
        raise CheckpointError(
            f"the tokenizer knows {len(lexicon.special)} tokens, the model {known}; give the model "
            "its own tokenizer"
        )
    for name, own, its in (
        ("end", tokenizer.eos_token_id, config.eos_token_id),
        ("mask", tokenizer.mask_token_id, mask),
        ("padding", tokenizer.pad_token_id, config.pad_token_id),
    ):
        if own is not None and own != its:
            raise CheckpointError(
                f"the {name} token is {own} for the tokenizer and {its} for the model; write the "
                "same into the model's config.json"
            )
    if mask < len(lexicon.special) and not lexicon.special[mask]:
        token = tokenizer.convert_ids_to_tokens(mask)
        raise ConfigError(
            f"mask_token_id {mask} of the model is {token!r} in texts; add a mask token to the "
            "tokenizer, and write its number and the new vocab_size into the model's config.json"
        )
    return Corruptor(
        lexicon=lexicon,
        noise=noise,
        mask=mask,
        config=config if config.output_head == "plain" else None,
        longest=config.max_position_embeddings - lexicon.framing,
        seed=seed,
    )


class CorruptedRows(Dataset[Tokens]):
    """Stored rows, corrupted when they are asked for, in each epoch anew.

    Args:
        rows: With ``input_ids``.
        corruptor: Makes the exercises.
    """

    def __init__(self, rows: Any, corruptor: Corruptor) -> None:
        super().__init__()
        self.rows, self.corruptor, self.epoch = rows, corruptor, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Tokens:
        return self.corruptor(self.rows[row]["input_ids"], epoch=self.epoch, row=row)

    def set_epoch(self, epoch: int) -> None:
        """Say how often all rows were read before."""
        self.epoch = epoch


class CorruptedStream(IterableDataset[Tokens]):
    """Rows of a stream, corrupted as they come.

    Args:
        rows: With ``input_ids``; one worker at most reads it.
        corruptor: Makes the exercises.
    """

    def __init__(self, rows: Any, corruptor: Corruptor) -> None:
        super().__init__()
        self.rows, self.corruptor, self.epoch = rows, corruptor, 0

    def __iter__(self) -> Iterator[Tokens]:
        for number, row in enumerate(self.rows):
            yield self.corruptor(row["input_ids"], epoch=self.epoch, row=number)

    def set_epoch(self, epoch: int) -> None:
        """Say how often the stream was read before; it is shuffled anew."""
        self.epoch = epoch
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)


def corrupted(rows: Any, corruptor: Corruptor) -> Dataset[Tokens]:
    """Let rows be corrupted as they are read.

    Args:
        rows: As ``load_blocks`` gives them, or anything alike.
        corruptor: Makes the exercises.
    """
    if isinstance(rows, IterableDataset):
        return CorruptedStream(rows, corruptor)
    return CorruptedRows(rows, corruptor)


class ExerciseCollator(Collator):
    """Pads exercises on the right into one batch."""

    def __call__(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        """Give ``input_ids``, ``attention_mask``, ``labels`` and, if rows have them, ``exits``."""
        batch: dict[str, Tensor] = dict(super().__call__(rows))
        if "exits" in rows[0]:
            batch["exits"] = self._padded([row["exits"] for row in rows], NO_PLACE)
        return batch
