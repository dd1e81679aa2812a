"""Write an exit as a model of its own: the first k blocks, the norm, and one head.

In:  a model with exits. Out: a folder with a plain checkpoint of the base's own family, which
     transformers, and engines that read its checkpoints, load without offramp: a draft model.
Law: the folder's logits are those of ``FixedExit(exit=k)``, bit for bit where nothing is folded;
     every export is loaded again and compared before it is moved to its place
     (tests/models/test_export.py).
Not here: what the configuration says (offramp.models.truncated), the folder
     (offramp.models.export_folder), models with exits (offramp.models.storage).

A head W after a matrix M is the head W M, so ``cast`` folds into a head of its own; ``lens`` acts
before the norm, where no plain checkpoint has a place for it.
"""

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from offramp.blocks.projections import Block, Cast, Head, Lens, Projection
from offramp.config import ORIGINAL, ExitName, parse_exit
from offramp.errors import CheckpointError, ConfigError, first_line
from offramp.models.auto import load_base
from offramp.models.export_folder import check_export_folder, holds_base, move, staged
from offramp.models.fingerprint import of_base
from offramp.models.multiexit import MultiExitModel
from offramp.models.truncated import truncated_config

PROBE_TOKENS = 8
FAMILY_ERRORS = (
    *(ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    *(CheckpointError, StrictDataclassError),
)
"""What the code of a family raises over a configuration or weights that it cannot take."""


@dataclass(frozen=True, kw_only=True)
class ExportedExit:
    """What was exported.

    Attributes:
        base: Name or folder of the model that it was cut from.
        exit: Which exit.
        projection: How the exit read its state, by its short name.
        blocks: How many blocks were written.
        base_blocks: How many the base has.
        dtype: Of the weights.
        parameters: How many numbers they are.
    """

    base: str
    exit: int
    projection: str
    blocks: int
    base_blocks: int
    dtype: str
    parameters: int


@torch.no_grad()
def export_exit(
    model: Any,
    folder: str | Path,
    *,
    exit: ExitName,
    tokenizer: Any = None,
    overwrite: bool = False,
) -> ExportedExit:
    """Write an exit as a plain checkpoint of the base's family: k blocks, norm, head.

    ``AutoModelForCausalLM.from_pretrained`` of transformers loads it (``AutoModelForSeq2SeqLM`` if
    there is an encoder), and it can be the ``assistant_model`` of its base. Exits of the
    projections ``direct``, ``head``, ``cast`` and ``block`` can be exported; ``head`` and ``cast``
    get a head apart from the embedding, and the extra block of ``block`` comes last.

    Args:
        model: A model with exits.
        folder: Made if missing. The checkpoint appears in it whole, after it was loaded and
            compared with the exit.
        exit: An attached exit, from 1 (for ``block`` from 0).
        tokenizer: Saved beside it, if given.
        overwrite: Put it in the place of an earlier export; other files are left alone.

    Returns:
        What was written.

    Raises:
        ConfigError: The exit or the base has no plain form, or the folder is in use.
        ExitNotFoundError: The exit is not attached.
        CheckpointError: The folder cannot be written.

    Example:
        >>> export_exit(model, "draft", exit=12)  # doctest: +SKIP
        >>> draft = AutoModelForCausalLM.from_pretrained("draft")  # doctest: +SKIP
        >>> base.generate(**inputs, assistant_model=draft)  # doctest: +SKIP
    """
    number, projection = _foldable(model, exit)
    place = check_export_folder(folder, overwrite=overwrite)
    if holds_base(place, str(model.name_or_path or "")):
        raise ConfigError(f"{place} holds the base of this exit; name another folder")
    plain = _plain_model(model, number, projection)
    about = ExportedExit(
        base=str(model.name_or_path or ""),
        exit=number,
        projection=projection.mode.short,
        blocks=number + isinstance(projection, Block),
        base_blocks=model.depth,
        dtype=str(plain.dtype).removeprefix("torch."),
        parameters=_count(plain),
    )
    try:
        with staged(place) as stage:
            _save(plain, tokenizer, stage)
            _check(model, stage, number)
            move(stage, place, asdict(about))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write an export to {place}: {first_line(error)}; free some space or name "
            "another folder"
        ) from None
    return about


def _foldable(model: Any, name: ExitName) -> tuple[int, Projection]:
    """Give an exit's number and projection if a plain checkpoint can hold it."""
    exit = parse_exit(name)
    if not isinstance(model, MultiExitModel):
        raise ConfigError(
            f"{type(model).__name__} has no exits; attach one: attach_exits(model, '12')"
        )
    if exit == ORIGINAL:
        raise ConfigError(
            "exit 'original' is the whole model, which save_pretrained writes; name an exit by its "
            "number of blocks"
        )
    model.check_exits((exit,), attached_only=True)
    projection: Any = model.exits[str(exit)]
    if isinstance(projection, Lens):
        raise ConfigError(
            f"exit {exit} is a 'lens', which acts before the last norm, where a plain checkpoint "
            "has no place for it; exits that can be exported are direct, head, cast and block"
        )
    if exit == 0 and not isinstance(projection, Block):
        raise ConfigError("exit 0 has no blocks, so it is no model of its own; export exit 1 or up")
    return exit, projection


def _plain_model(model: Any, exit: int, projection: Projection) -> Any:
    """Build the truncated model around the weights of the whole one, without copying them."""
    base_state = _readable_state(model)
    depth, family = model.depth, type(model).base_class
    kept = [*range(exit), *([depth - 1] if isinstance(projection, Block) else [])]
    head = _folded(projection, model.anatomy.head)
    try:
        config = truncated_config(model.config, depth=depth, kept=kept, tied=head is None)
        state = _cut_state(model, base_state, exit)
        if head is not None:
            state.update(_head_state(model, state, head, projection))
        if not getattr(config, "tie_word_embeddings", True):
            state = _apart(state)
        with torch.device("meta"):
            plain = family(config)
        missing, strangers = plain.load_state_dict(state, strict=False, assign=True)
    except ConfigError:
        raise
    except FAMILY_ERRORS as error:
        raise _cannot(model, exit, first_line(error)) from error
    if missing or strangers:
        names = ", ".join([*missing, *strangers][:3])
        raise _cannot(model, exit, f"its weights are not those of a whole model: {names}")
    plain.generation_config = copy.deepcopy(model.generation_config)
    return plain.eval()


def _readable_state(model: Any) -> dict[str, Tensor]:
    """Give the weights, if they are all here and plain."""
    state: dict[str, Tensor] = model.state_dict()
    if getattr(model, "hf_quantizer", None) or getattr(model.config, "quantization_config", None):
        raise ConfigError(
            "the base is quantised, and an export is made of plain weights; load it without "
            "quantization_config"
        )
    for name, tensor in state.items():
        if type(tensor) is not Tensor or tensor.device.type == "meta":
            kind = "is not in memory" if type(tensor) is Tensor else f"is a {type(tensor).__name__}"
            raise ConfigError(
                f"{name} {kind}, and an export is made of plain weights; load the base on one "
                "device, without quantising or offloading it"
            )
    return state


def _folded(projection: Projection, head: nn.Module) -> Float[Tensor, "vocab width"] | None:
    """Give the one matrix that does what an exit's matrices do after the norm, if it has any."""
    weight: Tensor = head.weight  # type: ignore[assignment]
    if isinstance(projection, Head):
        return projection.linear.weight.to(weight)
    if isinstance(projection, Cast):
        exact = torch.promote_types(weight.dtype, torch.float32)
        return (weight.to(exact) @ projection.linear.weight.to(weight.device, exact)).to(weight)
    return None


def _cut_state(model: Any, state: dict[str, Tensor], exit: int) -> dict[str, Tensor]:
    """Leave out the blocks above the exit, or put the exit's own block in their place."""
    blocks = _path_of(model, model.anatomy.blocks)
    above = tuple(f"{blocks}.{number}." for number in range(exit, model.depth))
    extra = f"exits.{exit}.block."
    return {
        name.replace(extra, above[0]) if name.startswith(extra) else name: tensor
        for name, tensor in state.items()
        if name.startswith(extra) or (of_base(name) and not name.startswith(above))
    }


def _head_state(
    model: Any, state: dict[str, Tensor], head: Tensor, projection: Projection
) -> dict[str, Tensor]:
    path = _path_of(model, model.anatomy.head)
    bias = state.get(f"{path}.bias")
    named = {f"{path}.weight": head}
    if bias is not None and isinstance(projection, Head):  # it has none
        named[f"{path}.bias"] = torch.zeros_like(bias)
    return named


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give every name a tensor of its own: transformers would leave out all names but one."""
    seen: set[int] = set()
    named = {}
    for name, tensor in state.items():
        named[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return named


def _count(plain: Any) -> int:
    """Count parameters, those with two names once."""
    return sum({each.data_ptr(): each.numel() for each in plain.parameters()}.values())


def _path_of(model: Any, part: nn.Module) -> str:
    return str(next(name for name, module in model.named_modules() if module is part))


def _save(plain: Any, tokenizer: Any, stage: Path) -> None:
    try:
        plain.save_pretrained(stage)
    except ValueError as error:
        raise ConfigError(
            f"transformers does not write this model ({first_line(error)}); most likely its "
            "generation configuration contradicts itself: repair model.generation_config"
        ) from None
    if tokenizer is not None:
        tokenizer.save_pretrained(stage)


def _check(model: Any, stage: Path, exit: int) -> None:
    """Load what was written as its reader will, and compare its scores with those of the exit."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, 1 + PROBE_TOKENS).unsqueeze(0) % vocabulary
    inputs = {"input_ids": ids, "use_cache": False}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    was_training = model.training
    model.eval()
    try:
        plain = load_base(str(stage), {"dtype": "auto", "trust_remote_code": False}).eval()
        told = plain(**inputs).logits
        ours = {name: each.to(model.device) for name, each in inputs.items() if name != "use_cache"}
        own = model.exit_logits(**ours, exits=(exit,), use_cache=False)[exit]
    except FAMILY_ERRORS as error:
        raise _cannot(model, exit, first_line(error)) from error
    finally:
        model.train(was_training)
    difference = (told.double() - own.double().cpu()).norm() / own.double().norm().cpu()
    tolerance = 1e-3 if own.dtype in (torch.float32, torch.float64) else 5e-2
    if not difference <= tolerance:  # NaN is no small difference either
        raise _cannot(model, exit, f"its scores would be off by a share of {difference:.2g}")


def _cannot(model: Any, exit: int, why: str) -> ConfigError:
    return ConfigError(
        f"cannot make exit {exit} of this {type(model).__name__} a model of its own ({why}); use "
        f"it in its own model, by generate(decoding=FixedExit(exit={exit}))"
    )
