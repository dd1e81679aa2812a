"""Tokenizers of the three tasks, in the format that AutoTokenizer reads without any own code.

In:  training texts, or nothing for words and phones. Out: a PreTrainedTokenizerFast.
Law: <s> <pad> </s> <unk> <mask> are 0 to 4; every text ends with </s>; what is decoded is what
was encoded (tests/recipes/test_elmer_data.py).
Not here: which texts (data_rewrite, data_synopsis).
"""

import string
from collections.abc import Iterable, Sequence

import numpy
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
LETTERS = tuple(string.ascii_lowercase + "'")
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
PHONES = tuple(sorted(f"{CONSONANTS} {VOWELS}".split()))


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Give every text its end and the special tokens their parts."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", SPECIALS.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def phone_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer of words and phones: lower-case letters one by one, phones by name.

    A capital beside a lower-case letter is read as lower case; all in capitals, letters would be
    phones, or unknown.

    Example:
        >>> tokenizer = phone_tokenizer()
        >>> tokenizer.tokenize("light")
        ['l', 'i', 'g', 'h', 't']
        >>> tokenizer.tokenize("Light")
        ['l', 'i', 'g', 'h', 't']
        >>> tokenizer.decode(tokenizer("L AY T").input_ids, skip_special_tokens=True)
        'L AY T'
    """
    vocabulary = {token: place for place, token in enumerate((*SPECIALS, *LETTERS, *PHONES))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(f"(?<=[a-z']){letter}|{letter}(?=[a-z'])"), letter.lower())
            for letter in string.ascii_uppercase
        ]
    )
    letters = pre_tokenizers.Split(Regex("[a-z']"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), letters])
    return wrapped(tokenizer)


def byte_tokenizer(texts: Iterable[str], *, size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE, one vocabulary for both sides.

    Args:
        texts: Sources and targets of the training side only.
        size: Number of tokens, the 5 special ones and 256 bytes among them.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return wrapped(tokenizer)


def token_lengths(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> dict[str, float]:
    """Say how many tokens texts have, the closing </s> counted: mean, 99th percentile, most."""
    lengths = [len(ids) for ids in tokenizer(list(texts)).input_ids]
    return {
        "mean": round(float(numpy.mean(lengths)), 2),
        "p99": int(numpy.percentile(lengths, 99)),
        "max": max(lengths),
    }
