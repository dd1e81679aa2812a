"""Make what the examples need at their smoke size: tiny models, and texts of a few lines.

    python examples/smoke.py FOLDER

FOLDER gets gpt2 (24 blocks), gpt_neo (12 blocks) and elmer (6 + 6 layers, no weights), each with a
tokenizer that reads bytes; cc100.txt, books/text.txt and held-out.txt; and in each of xsum, squadqg
and personachat the six files that GLGE ships. Nothing is fetched, and what is learned is worth
nothing: this shows that the commands run.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    PreTrainedTokenizerFast,
)

HERE = Path(__file__).parent
SPECIAL = ("<s>", "<pad>", "</s>", "<mask>")
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCABULARY = len(SPECIAL) + len(LETTERS)
SENTENCES = (
    "Ferry {0} leaves the harbour at noon with people on board.",
    "Number {0} of the lighthouse logs tells of a storm in autumn.",
    "Nobody counted the {0} gulls that followed the boat home.",
)
TASKS = {
    "xsum": ("A long report says that {0} ferries were late. " * 4, "{0} ferries were late"),
    "squadqg": ("{0} [SEP] In spring {0} boats left the harbour.", "how many boats left?"),
    "personachat": ("i like the sea [SEP] do you have {0} boats?", "yes i have {0} boats"),
}
PAIRS = {"train": 12, "dev": 4, "test": 4}


def tokenizer() -> PreTrainedTokenizerFast:
    """Give one token a byte; a text stands between <s> and </s>, as BART's."""
    names = [*SPECIAL, *LETTERS]
    bare = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = decoders.ByteLevel()
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


def decoder(config: GPT2Config | GPTNeoConfig, folder: Path) -> None:
    """Write a decoder with random weights; its texts have no end token of their own."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    plain = tokenizer()
    plain.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    plain.save_pretrained(folder)


def elmer(folder: Path) -> None:
    """Write the configuration of the full size with small numbers in it."""
    config = json.loads((HERE / "elmer_pretrain" / "config.json").read_text(encoding="utf-8"))
    config |= {"vocab_size": VOCABULARY, "d_model": 16, "max_position_embeddings": 256}
    config |= {"mask_token_id": SPECIAL.index("<mask>")}
    for side in ("encoder", "decoder"):
        config |= {f"{side}_attention_heads": 2, f"{side}_ffn_dim": 24}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    tokenizer().save_pretrained(folder)


def lines(number: int) -> str:
    """Give a paragraph of three sentences."""
    return " ".join(SENTENCES).format(number)


def main() -> None:
    """Write all of it into a folder that is new or empty."""
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/smoke.py FOLDER")
    folder = Path(sys.argv[1])
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty; name a new folder")
    sizes = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    wide = {"n_embd": 16, "n_layer": 24, "n_head": 2, "n_positions": 512}
    decoder(GPT2Config(**wide, **sizes), folder / "gpt2")
    kinds = [[["global", "local"], 6]]
    narrow = {"hidden_size": 16, "num_layers": 12, "num_heads": 2, "max_position_embeddings": 512}
    decoder(GPTNeoConfig(attention_types=kinds, **narrow, **sizes), folder / "gpt_neo")
    elmer(folder / "elmer")
    (folder / "books").mkdir()
    text = "\n\n".join(map(lines, range(12))) + "\n"
    for name in ("cc100.txt", "books/text.txt", "held-out.txt"):
        (folder / name).write_text(text, encoding="utf-8")
    for task, sides in TASKS.items():
        (folder / task).mkdir()
        for split, count in PAIRS.items():
            for end, side in zip(("src", "tgt"), sides, strict=True):
                rows = "".join(f"{side.format(number).strip()}\n" for number in range(count))
                (folder / task / f"{split}.{end}").write_text(rows, encoding="utf-8")


if __name__ == "__main__":
    main()
