"""Checkpoints that are adapters (LoRA and alike): merged into the base that they name.

Owns how the weights of an adapter, saved over a model with any head, are found in its encoder.
Needs peft, which is loaded when it is used.
"""

import json
import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bertft.blocks import find_blocks
from bertft.quiet import first_line

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
ROOT = "base_model.model."


def base_of(source: str, revision: str | None, name: str) -> str | None:
    """Return the name of the base of a checkpoint that is an adapter, or None of a whole model.

    Raises:
        ValueError: an adapter that names no base, or one beside the weights of a whole model.
    """
    from transformers.utils import find_adapter_config_file

    try:
        path = find_adapter_config_file(source, revision=revision)
    except OSError:  # no name of the hub, which is told where weights or tokenizer are loaded
        path = None
    if path is None:
        return None
    # transformers would load the weights and the adapter on top, which may be in them already.
    if beside := [file.name for file in Path(source).glob("model*.safetensors")]:
        raise ValueError(
            f"[load_encoder] model must be whole or an adapter, got {CONFIG} and "
            f"{', '.join(sorted(beside))} in {name!r}; move the one that is not meant elsewhere."
        )
    try:
        config: dict[str, Any] = dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"[load_encoder] {CONFIG} must be a JSON object, got another text in {name!r} "
            f"({first_line(error)}); save the adapter again."
        ) from error
    base, version = config.get("base_model_name_or_path"), config.get("revision")
    if not base:
        raise ValueError(
            f"[load_encoder] adapter must name its base, got none in the {CONFIG} of {name!r}; set "
            "base_model_name_or_path there."
        )
    return f"{base}@{version}" if version and not Path(base).exists() else str(base)


def merged(
    base: "PreTrainedModel", source: str, revision: str | None, name: str, layers: str | None
) -> "PreTrainedModel":
    """Return an encoder with the weights of an adapter merged into its own.

    Args:
        base: the encoder that the adapter was trained on, which is changed.
        source: folder or hub name of the adapter.
        revision: of the adapter.
        name: of the adapter, for messages.
        layers: path of the blocks' module list, where they are not found by themselves.

    Raises:
        RuntimeError: peft is not installed.
        ValueError: an adapter that changes no weights (prompt tuning), or none of this encoder;
            those of a pooler that the base lacks are left out.
    """
    try:
        from peft import get_peft_model, set_peft_model_state_dict
    except ImportError as error:
        raise RuntimeError(
            f"[load_encoder] peft must be installed to read an adapter, got {name!r} and no peft; "
            "run: pip install 'bertft[peft]'."
        ) from error
    config, weights = _read(source, revision, name)
    if config.is_prompt_learning:
        raise ValueError(
            f"[load_encoder] adapter must change weights, as LoRA does, got "
            f"{config.peft_type.value} in {name!r}; its virtual tokens have no rows to compare."
        )
    held = (head for head in _heads(base) if any(key.startswith(ROOT + head) for key in weights))
    head = next(held, "")
    # Heads are left out: an encoder has none.
    config.task_type, config.inference_mode = None, False
    _name_in_encoder(config, base, head)
    absent = tuple(f"{head}{module}." for module in _absent(base))
    own = {
        ROOT + key.removeprefix(ROOT + head): value
        for key, value in weights.items()
        if key.startswith(ROOT + head) and not key.removeprefix(ROOT).startswith(absent)
    }
    if not own:
        raise ValueError(
            f"[load_encoder] adapter must change weights that its base has, got only others in "
            f"{name!r}, such as {min(weights, default='')!r}; no layer would differ."
        )
    poolers = find_blocks(base, layers).late
    try:
        with warnings.catch_warnings():
            # peft asks models for what transformers has renamed.
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing")
            adapted = get_peft_model(base, config)
        set_peft_model_state_dict(adapted, own)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"[load_encoder] adapter must fit its base, got {name!r} ({first_line(error)}); "
            "merge it into the model it was trained on (merge_and_unload) and pass that."
        ) from error
    _require_all(adapted, own, poolers, name)
    whole: PreTrainedModel = adapted.merge_and_unload()
    return whole


def _read(source: str, revision: str | None, name: str) -> tuple[Any, dict[str, Tensor]]:
    """The configuration and the weights of an adapter; nothing is unpickled."""
    from peft import PeftConfig
    from peft.utils import SAFETENSORS_WEIGHTS_NAME, load_peft_weights
    from safetensors import SafetensorError
    from transformers.utils import cached_file

    try:
        cached_file(source, SAFETENSORS_WEIGHTS_NAME, revision=revision)
        config = PeftConfig.from_pretrained(source, revision=revision)
        weights: dict[str, Tensor] = load_peft_weights(source, device="cpu", revision=revision)
    # A configuration with keys that are absent, unknown or of another type: KeyError, TypeError.
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"[load_encoder] adapter must have a whole {CONFIG} and {SAFETENSORS_WEIGHTS_NAME}, "
            f"got {name!r} ({first_line(error)}); save it again with save_pretrained."
        ) from error
    if getattr(config, "layer_replication", None):
        raise ValueError(
            f"[load_encoder] adapter must change the layers that its base has, got {name!r} with "
            "layer_replication; merge it into a model of its own and pass that."
        )
    return config, weights


def _name_in_encoder(config: Any, base: "PreTrainedModel", head: str) -> None:
    """Make a configuration name the modules of an encoder as a model with that head names them.

    Patterns are regular expressions over names in the whole model: each becomes the names in the
    encoder that it stands for.
    """
    from peft.utils.other import get_pattern_key

    for patterns in ("rank_pattern", "alpha_pattern"):
        given = getattr(config, patterns, None) or {}
        keys = {name: get_pattern_key(list(given), head + name) for name, _ in base.named_modules()}
        found = {f"^{re.escape(name)}": given[key] for name, key in keys.items() if key in given}
        setattr(config, patterns, found)
    for names in ("target_modules", "exclude_modules"):
        if isinstance(given := getattr(config, names, None), (set, list)):
            setattr(config, names, {name.removeprefix(head) for name in given})


def suffix_of(model: Any) -> str:
    """Return what tells the name of a model in memory with an adapter from that of its base."""
    return f" + {model.active_adapter}" if hasattr(model, "get_base_model") else ""


def _heads(encoder: "PreTrainedModel") -> list[str]:
    """Where a model with a head may hold the encoder; T5's is inside of an encoder-decoder."""
    prefix = f"{encoder.base_model_prefix}."
    is_inner = encoder.config.is_encoder_decoder or encoder.get_encoder() is encoder
    return [f"{prefix}encoder.", "encoder.", prefix] if is_inner else [prefix]


def _absent(encoder: "PreTrainedModel") -> list[str]:
    """Names of the modules that an encoder is left without: a pooler that its checkpoint lacks."""
    return [
        f"{parent}.{child}".removeprefix(".")
        for parent, module in encoder.named_modules()
        for child, own in module._modules.items()
        if own is None
    ]


def _require_all(
    adapted: "PeftModel", weights: dict[str, Tensor], poolers: Collection[str], name: str
) -> None:
    """Refuse weights without a place in an adapted model, and places without, but for poolers."""
    from peft import get_peft_model_state_dict

    wanted = get_peft_model_state_dict(adapted)
    late = tuple(f"{ROOT}{module}." for module in poolers)
    missing = {key for key in wanted.keys() - weights.keys() if not key.startswith(late)}
    if differing := sorted(missing | (weights.keys() - wanted.keys())):
        raise ValueError(
            f"[load_encoder] adapter must hold the weights that its {CONFIG} tells, got "
            f"{len(differing)} missing or unknown in {name!r}, such as {differing[0]!r}; its base "
            "is another architecture, or it was saved in part."
        )
