"""A pre-training of seconds that tests run, here or in processes of their own."""

import os

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from offramp.models.elmer import ElmerConfig, ElmerForConditionalGeneration
from offramp.training.pretraining import pretrain
from offramp.training.pretraining_settings import PretrainSettings
from small_training import weights_of

SPECIAL = ("<s>", "<pad>", "</s>", "<mask>")
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCABULARY = len(SPECIAL) + len(LETTERS)
ROWS = 24
USUAL = {
    "learning_rate": 1e-2,
    "schedule": "linear",
    "warmup": 0.0,
    "epochs": 2.0,
    "rows_per_step": 4,
    "batch_size": 4,
    "workers": 0,
    "save_steps": 4,
    "log_steps": 3,
    "keep": 5,
    "seed": 3,
}
"""Two epochs of six steps: a checkpoint in the middle of each, log lines that span them."""
STREAM = "streamed"


def tokenizer_of(framed=True):
    """One token a byte; as BART's, with <s> before a text and </s> behind it."""
    names = [*SPECIAL, *LETTERS]
    bare = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = decoders.ByteLevel()
    if framed:
        bare.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        mask_token="<mask>",
    )


def config_of(**more):
    """An ELMER of two and three layers for the byte tokenizer."""
    sizes = {
        "vocab_size": VOCABULARY,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "mask_token_id": 3,
    }
    return ElmerConfig(**{**sizes, **more})


def elmer_of(seed=0, dtype=torch.float32, **more):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ElmerForConditionalGeneration(config_of(**more)).to(dtype)


def texts(count=ROWS, seed=0):
    """Rows of text of several lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        size = int(torch.randint(3, 30, (), generator=generator))
        ids = torch.randint(len(SPECIAL), VOCABULARY, (size,), generator=generator)
        rows.append({"input_ids": ids.tolist()})
    return rows


class Stream(torch.utils.data.IterableDataset):
    """The same rows, without a length."""

    def __iter__(self):
        return iter(texts())


def train(folder, model=None, rows=None, **more):
    """Pre-train into a folder; what is no setting goes to transformers or to ``pretrain``."""
    named = {**USUAL, **more}
    fields = PretrainSettings.__dataclass_fields__
    settings = PretrainSettings(**{name: named[name] for name in named if name in fields})
    rest = {name: named[name] for name in named if name not in fields}
    model = elmer_of() if model is None else model
    pretrain(
        model,
        texts() if rows is None else rows,
        tokenizer=tokenizer_of(),
        output=folder,
        settings=settings,
        **{"use_cpu": True, "disable_tqdm": True, **rest},
    )
    return model


def run(arguments):
    """What a process of its own does: train, and leave the weights beside the folder."""
    folder = arguments.pop("folder")
    model = elmer_of(**arguments.pop("model", {}))
    rows = Stream() if arguments.pop(STREAM, False) else None
    train(folder, model, rows, **arguments)
    torch.save(weights_of(model), f"{folder}.{os.environ.get('RANK', 0)}.pt")
