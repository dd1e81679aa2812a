"""Try every language model class of transformers, tiny, and write what works to docs/families.md.

    PYTHONPATH=tests python tests/blocks/families.py --write

The page holds no times and no numbers that depend on the machine, so it can be compared.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

import tiny
from offramp import Contrast, FixedExit, attach_exits
from offramp.blocks.anatomy import CHECKED, anatomy_of
from offramp.blocks.span import Span
from offramp.errors import ConfigError, UnknownLayoutError

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
NOT_TRIED = {"gemma3n": "needs timm and pillow"}
NEW_TOKENS = 3
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Row:
    """What one class can do; None where nothing could be tried."""

    family: str
    name: str
    exits: bool | None = None
    contrast: bool | None = None
    spans: bool | None = None
    why: str = ""


def survey() -> list[Row]:
    """Try all classes."""
    return [try_class(*each) for each in classes()]


def classes() -> Iterator[tuple[str, str, bool]]:
    """Name all classes: family, class, whether it has an encoder."""
    for names, seq2seq in (
        (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, False),
        (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, True),
    ):
        yield from ((family, names[family], seq2seq) for family in sorted(names))


@torch.no_grad()
def try_class(family: str, name: str, seq2seq: bool) -> Row:
    """Build a class tiny and try exits, then contrast, then spans."""
    row = {"family": family, "name": name}
    if family in NOT_TRIED:
        return Row(**row, why=f"not built tiny: {NOT_TRIED[family]}")
    try:
        model = tiny.model_of(family, seq2seq=seq2seq)
        inputs = tiny.prompt(model)
        own = model(**inputs).logits
    except tiny.TooLargeError:
        return Row(**row, why="not built tiny: has sizes that the test does not know to set")
    except Exception as error:  # the family's own code, given sizes nobody trained
        return Row(**row, why=f"not built tiny: {type(error).__name__}")
    try:
        model = attach_exits(model, (1,))
        model = attach_exits(model, (model.depth,))
    except Exception as error:
        return Row(**row, exits=False, contrast=False, spans=False, why=refusal(error, model))
    told = model.exit_logits(**inputs, exits=(1, model.depth))[model.depth]
    exits, contrast = close(told, own), works_in_generate(model, inputs["input_ids"])
    spans, why = try_spans(model, inputs)
    return Row(**row, exits=exits, contrast=contrast, spans=spans, why=why)


def close(told: Tensor, own: Tensor) -> bool:
    return told.shape == own.shape and torch.allclose(told, own, rtol=TOLERANCE, atol=TOLERANCE)


def refusal(error: Exception, model: nn.Module) -> str:
    """Say in a few words why exits were refused."""
    if isinstance(error, UnknownLayoutError):
        head = model.get_output_embeddings()
        path = next((name for name, module in model.named_modules() if module is head), "")
        if "." in path:
            return f"head like an encoder's: a transform before `{path}`"
        lists = (name for name, each in model.named_modules() if isinstance(each, nn.ModuleList))
        return f"parts not found; lists: {', '.join(f'`{name}`' for name in [*lists][:2])}"
    return f"logits are not norm and head of the last block's state{oddity(model)}"


def oddity(model: Any) -> str:
    """Say what is odd about the state of the last block, if it is seen at a glance."""
    seen: list[int] = []
    handle = (
        anatomy_of(model)
        .blocks[-1]
        .register_forward_hook(
            lambda _, __, output: seen.append(
                (output if torch.is_tensor(output) else output[0]).dim()
            )
        )
    )
    model(**tiny.prompt(model))
    handle.remove()
    if not seen:
        return ", which is not run"
    return "" if seen[0] == 3 else f", which is {seen[0]}-D"


def works_in_generate(model: Any, ids: Tensor) -> bool:
    """Tell whether ``generate`` follows a rule: exit L is plain, contrast its forward in a loop."""
    plain, last = generate(model, ids, None), generate(model, ids, FixedExit(exit=model.depth))
    if not torch.equal(plain, last):
        return False
    rule = Contrast(lower=1)
    if torch.equal(generate(model, ids, rule), looped(model, ids, rule)):
        return True
    return not torch.equal(plain, looped(model, ids, None))  # then its own generate does more


def generate(model: Any, ids: Tensor, rule: object) -> Tensor:
    settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    return model.generate(ids, decoding=rule, **settings)[:, -NEW_TOKENS:]


def looped(model: Any, ids: Tensor, rule: object) -> Tensor:
    """Choose greedily by forward alone, with a cache where the family takes one."""
    source: dict[str, Any] = {}
    tokens = ids
    if model.config.is_encoder_decoder:
        source = {"encoder_outputs": model.get_encoder()(ids)}
        tokens = torch.full_like(ids[:, :1], model.generation_config.decoder_start_token_id)
    name = "decoder_input_ids" if source else "input_ids"
    unseen, cache = tokens, {}
    for _ in range(NEW_TOKENS):
        outputs = model(**{name: unseen}, **source, **cache, use_cache=True, decoding=rule)
        cache = {"past_key_values": past} if (past := outputs.get("past_key_values")) else {}
        scores = outputs.logits[:, -1]
        scores[:, model.generation_config.eos_token_id] = -torch.inf
        step = scores.argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, step], 1)
        unseen = step if cache else tokens
    return tokens[:, -NEW_TOKENS:]


def new_cache(model: Any) -> Any:
    own = DynamicCache(config=model.config)
    if not model.config.is_encoder_decoder:
        return own
    return EncoderDecoderCache(own, DynamicCache(config=model.config))


def try_spans(model: Any, inputs: dict[str, Tensor]) -> tuple[bool, str]:
    """Tell whether two spans with a cache are the model's own forward with its cache."""
    try:
        span = Span(model.anatomy)
    except ConfigError as error:
        recurrent = "beside keys and values" in str(error)
        return False, (
            "no spans: recurrent or convolution layers"
            if recurrent
            else "no spans: blocks take more than the state of the block before"
        )
    ids = inputs.get("decoder_input_ids", inputs["input_ids"])
    own_source, source = {}, {}
    if model.config.is_encoder_decoder:
        own_source = {"encoder_outputs": model.get_encoder()(inputs["input_ids"])}
        source = {"encoder_hidden_states": own_source["encoder_outputs"][0]}
    name = "decoder_input_ids" if source else "input_ids"
    own_cache, cache, middle = new_cache(model), new_cache(model), model.depth // 2
    for start, stop in ((0, 4), (4, 5), (5, 7)):
        step = ids[:, start:stop]
        own = model(**{name: step}, **own_source, past_key_values=own_cache, use_cache=True)
        state = span.run(None, 0, middle, cache=cache, input_ids=step, **source)
        state = span.run(state, middle, model.depth, cache=cache, input_ids=step, **source)
        told = model.anatomy.scores(model.anatomy.head(model.anatomy.finish(state)))
        bias = model.anatomy.bias
        if not close(told if bias is None else told + bias, own.logits):
            return False, "no spans: they give another state than its own forward"
    return True, ""


def page(rows: list[Row]) -> str:
    """Write the page."""
    return "".join([*introduction(rows), *table(rows)])


def introduction(rows: list[Row]) -> Iterator[str]:
    def count(holds: Callable[[Row], bool | None]) -> int:
        return sum(bool(holds(row)) for row in rows)

    yield f"""# Families

<!-- Written by `PYTHONPATH=tests python tests/blocks/families.py --write`; a test compares it. -->

offramp asks transformers {transformers.__version__} for every class it has for causal language
models and for text to text, builds each with tiny random weights where it can, and tries it.

- **exits**: the exit after the last block, read as `direct`, gives the model's own logits.
- **contrast**: `generate` follows `Contrast` and `FixedExit`, with the family's own cache.
- **spans**: blocks run in two parts, with a cache, give what the model's own forward gives
  (needed for early exit and speculation, not for contrast).

| classes | exits | contrast | spans | refused | not built tiny |
|---|---|---|---|---|---|
| {len(rows)} | {count(lambda row: row.exits)} | {count(lambda row: row.contrast)} \
| {count(lambda row: row.spans)} | {count(lambda row: row.exits is False)} \
| {count(lambda row: row.exits is None)} |

Of those not built tiny nothing is known. **Bold** families are also tested one by one: every exit
against the family's own hidden states, with padding, and spans with rollback and filling
(`tests/blocks/test_families.py`, `test_span.py` and `test_cache.py` beside it).

## What a refusal looks like

A family that is not bold is probed when exits are attached: two tokens go through it, and the last
exit must give the model's own logits; and again, with a cache, before spans of it are run. So exits
of a family that nobody has tried are right, or there are none:

```text
UnknownLayoutError: cannot find the blocks of FancyLM: looked for model.layers, transformer.h, ...
and the norm after them; this model's lists are body (2). Name its parts yourself:
layout=Layout(stack='path.to.decoder', blocks='layers', finish=('norm',))
```

Refused on purpose: encoders that can also be run as decoders (BERT and its relatives), whose head
is a transform and a matrix. No spans on purpose: recurrent and convolution layers, whose state can
be neither rolled back nor filled later.

## Naming the parts of a model

```python
from offramp import Layout, attach_exits

layout = Layout(stack="model.decoder", blocks="body", finish=("last_norm",))
model = attach_exits(model, "6;12", "lens", layout=layout)
```

`stack` is the path from the model to the module that runs the blocks in a loop, `blocks` the path
from there to their `nn.ModuleList`, `finish` what is applied, in order, between the last block and
the head (a path that begins with `/` begins at the model). Logits that are scaled by a setting of
the configuration name it: `scale="logit_scale"` or `divisor="logits_scaling"`. A layout that does
not give the model's own logits is refused.

## All classes

"""


def table(rows: list[Row]) -> Iterator[str]:
    words = {True: "yes", False: "no", None: "?"}
    yield "| family | class | exits | contrast | spans | why not |\n|---|---|---|---|---|---|\n"
    for row in rows:
        family = f"**{row.family}**" if row.family in CHECKED else row.family
        marks = " | ".join(words[each] for each in (row.exits, row.contrast, row.spans))
        yield f"| {family} | `{row.name}` | {marks} | {row.why} |\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    text = page(survey())
    if "--write" in sys.argv:
        PAGE.write_text(text)
    else:
        print(text)
