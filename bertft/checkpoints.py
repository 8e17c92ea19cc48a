"""Checkpoints: an encoder with its tokenizer, from a folder, the hub, or memory.

Owns what a name means, which weights may be missing, and when tokenizers say the same.
Nothing is unpickled, and no code that comes with a checkpoint is run.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bertft.adapters import base_of, merged, suffix_of
from bertft.blocks import Blocks, find_blocks
from bertft.models import encoder_of, positions
from bertft.quiet import first_line, quiet

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Checkpoint:
    """An encoder under a name, with its layers and its tokenizer."""

    name: str
    encoder: "PreTrainedModel"
    blocks: Blocks
    tokenizer: "PreTrainedTokenizerBase"

    @classmethod
    def open(
        cls,
        model: "str | Path | PreTrainedModel | PeftModel",
        dtype: torch.dtype | None = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        layers: str | None = None,
    ) -> "Checkpoint":
        """Open a checkpoint by name or path, or a model that is in memory already.

        Args:
            model: a folder, `NAME`, `NAME@revision`, or a `PreTrainedModel` with any head; an
                adapter's folder, or a `PeftModel`, counts as its base with the adapter.
            dtype: of the weights; float32 by default, and that of a model in memory.
            tokenizer: by default the one beside the weights.
            layers: path of the blocks' module list, where they are not found by themselves.

        Raises:
            FileNotFoundError: no such model or tokenizer.
            TypeError: a tokenizer, or a model, that is something else.
            ValueError: incomplete or pickled weights, or another dtype asked of a model in memory.
        """
        if tokenizer is not None and not hasattr(tokenizer, "is_fast"):
            raise TypeError(
                f"[Checkpoint.open] tokenizer must be one of transformers, got {tokenizer!r:.60}; "
                "load it with AutoTokenizer.from_pretrained."
            )
        if isinstance(model, (str, Path)):
            name = str(model)
            encoder = load_encoder(name, dtype or torch.float32, layers)
        else:
            encoder = encoder_of(model)
            home = encoder.name_or_path
            name = (home or type(model).__name__) + suffix_of(model)
            if tokenizer is None and not home:
                raise ValueError(
                    f"[Checkpoint.open] model must come with a tokenizer, got {name}, which was "
                    "loaded from nowhere; pass tokenizer=."
                )
            if dtype is not None and encoder.dtype != dtype:
                raise ValueError(
                    f"[Checkpoint.open] dtype must be that of a model in memory ({encoder.dtype}), "
                    f"got {dtype}; convert the model, or pass its path."
                )
            tokenizer = tokenizer or load_tokenizer(str(home))
        return cls(name, encoder, find_blocks(encoder, layers), tokenizer or load_tokenizer(name))

    @property
    def max_length(self) -> int | None:
        """Most tokens of a text, special ones included; None where nothing bounds them."""
        # Tokenizers without a limit of their own report a huge number.
        limits = [positions(self.encoder), self.tokenizer.model_max_length]
        return min((limit for limit in limits if limit and limit < 1 << 30), default=None)

    @property
    def pad_id(self) -> int:
        """Token id for positions that the mask hides."""
        return int(self.tokenizer.pad_token_id or 0)

    @property
    def has_token_types(self) -> bool:
        """Whether the encoder tells the second text of a pair from the first by token types."""
        return int(getattr(self.encoder.config, "type_vocab_size", None) or 0) > 1


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a checkpoint; an adapter without one has that of its base.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one that brings code of its own.
    """
    from transformers import AutoTokenizer

    source, revision = locate(name)
    base = base_of(source, revision, name)
    if base is not None and not (Path(source) / "tokenizer_config.json").is_file():
        return load_tokenizer(base)
    try:
        with quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                source, revision=revision, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"[load_tokenizer] tokenizer must run on code of transformers, got {name!r} with "
                "code of its own; read that, load the tokenizer with trust_remote_code=True, and "
                "pass tokenizer=."
            ) from error
        raise FileNotFoundError(
            f"[load_tokenizer] model must come with a tokenizer, got {name!r} "
            f"({first_line(error)}); save the tokenizer beside the weights, or pass tokenizer=."
        ) from error
    # Where no tokenizer file exists, transformers makes a tokenizer that knows no word.
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise FileNotFoundError(
            f"[load_tokenizer] model must come with a tokenizer, got {name!r} without its files; "
            "save the tokenizer beside the weights, or pass tokenizer=."
        )
    return tokenizer


def same_rules(a: Checkpoint, b: Checkpoint) -> bool:
    """Return whether two checkpoints have tokenizers that say the same, padding aside."""
    if a.tokenizer is b.tokenizer:
        return True
    if not (a.tokenizer.is_fast and b.tokenizer.is_fast):
        return False
    own, other = (side.tokenizer.backend_tokenizer.to_str() for side in (a, b))
    return own == other or _rules(own) == _rules(other)


def _rules(told: str) -> dict[str, Any]:
    """What a fast tokenizer's file says, less padding and truncation."""
    rules: dict[str, Any] = json.loads(told)
    return {key: value for key, value in rules.items() if key not in ("padding", "truncation")}


def load_encoder(name: str, dtype: torch.dtype, layers: str | None = None) -> "PreTrainedModel":
    """Load the encoder of a checkpoint, whatever head it was saved with, in the dtype asked for.

    A pooler that the checkpoint lacks is left out: transformers would draw one at random.

    Args:
        name: a folder, or a hub name as `NAME` or `NAME@revision`; an adapter is merged into its
            base.
        dtype: of the weights in memory, whatever the files hold.
        layers: path of the blocks' module list, where they are not found by themselves.

    Raises:
        FileNotFoundError: no such folder or model, or none that an adapter names as its base.
        ValueError: weights that exist only as pickles, code of its own, or an encoder weight that
            is missing from the checkpoint or has another shape there (transformers would draw it at
            random).
    """
    source, revision = locate(name)
    base = base_of(source, revision, name)
    if base is None:
        return _load_whole(name, dtype, layers)
    try:
        whole = _load_whole(base, dtype, layers)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"[load_encoder] adapter must have its base at hand, got {base!r}, which is what "
            f"{name!r} names; download it, or set base_model_name_or_path in adapter_config.json."
        ) from error
    return merged(whole, source, revision, name, layers)


def _load_whole(name: str, dtype: torch.dtype, layers: str | None) -> "PreTrainedModel":
    """The encoder of a checkpoint that is no adapter."""
    from safetensors import SafetensorError
    from transformers import AutoModel

    source, revision = locate(name)
    if (folder := Path(source)).is_dir():
        _require_weights(folder, name)
    try:
        with quiet():
            loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModel.from_pretrained(
                source,
                revision=revision,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise ValueError(
            f"[load_encoder] weights must be whole safetensors files, got {name!r} "
            f"({first_line(error)}); copy or download them again."
        ) from error
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"[load_encoder] model must run on code of transformers, got {name!r} with code of "
                "its own; read that, load the model with trust_remote_code=True, and pass it."
            ) from error
        raise ValueError(
            f"[load_encoder] model must be one that transformers knows, got {name!r} "
            f"({first_line(error)}); check its config.json, or update transformers."
        ) from error
    except OSError as error:
        which = f" and its revision {revision!r}" if revision is not None else ""
        raise FileNotFoundError(
            f"[load_encoder] model must be a folder or hub name with safetensors weights, got "
            f"{name!r} ({first_line(error)}); check the name{which}, or download it first."
        ) from error
    model, loading = loaded
    encoder = encoder_of(model)
    late = find_blocks(encoder, layers).late
    _require_all_weights(name, model, encoder, late, loading)
    _drop_drawn(encoder, late, loading)
    return encoder


def locate(name: str) -> tuple[str, str | None]:
    """Return what transformers should load for a folder or `NAME[@revision]`, and the revision.

    Raises:
        FileNotFoundError: `name` is written as a path, and there is no such folder.
    """
    folder = Path(name).expanduser()
    if folder.is_file():
        raise FileNotFoundError(
            f"[load_encoder] model must be a folder or a hub name, got the file {name!r}; pass the "
            "folder that it is in."
        )
    if folder.exists():
        return str(folder), None
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(
            f"[load_encoder] model must be an existing folder or a hub name, got {name!r}; "
            "check the path."
        )
    source, _, revision = name.partition("@")
    return source, revision or None


def fingerprint(encoder: "PreTrainedModel") -> str:
    """Return a hash of architecture and weights: equal for equal encoders, wherever they lie."""
    from transformers import PreTrainedConfig

    # What all configurations have (names, labels, versions) says nothing of the computation.
    common = PreTrainedConfig().to_dict()
    own = {k: v for k, v in encoder.config.to_dict().items() if k not in common}
    architecture = json.dumps([type(encoder).__name__, own], sort_keys=True, default=str)
    digest = hashlib.blake2b(architecture.encode(), digest_size=16)
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def _require_weights(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"[load_encoder] model must be a folder with config.json, got {name!r}; pass the "
            "folder that save_pretrained wrote."
        )
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise ValueError(
            f"[load_encoder] weights must be safetensors, got only pickles in {name!r}; if you "
            "trust them, load them with transformers and call save_pretrained, which writes "
            "safetensors."
        )
    raise FileNotFoundError(
        f"[load_encoder] model must have weights, got no *.safetensors in {name!r}; pass the "
        "folder that save_pretrained wrote."
    )


def _require_all_weights(
    name: str,
    model: "PreTrainedModel",
    encoder: "PreTrainedModel",
    late: Collection[str],
    loading: dict[str, Any],
) -> None:
    poolers = {p for module in late for p in encoder.get_submodule(module).parameters()}
    read = set(encoder.parameters()) - poolers
    named = dict(model.named_parameters(remove_duplicate=False))

    def is_read(key: str) -> bool:
        return key not in named or named[key] in read

    missing = sorted(filter(is_read, loading["missing_keys"]))
    if missing:
        raise ValueError(
            f"[load_encoder] checkpoint must hold every encoder weight, got {name!r} without "
            f"{_some(missing)}; it is another architecture, or was saved in part."
        )
    mismatched = sorted(entry for entry in loading["mismatched_keys"] if is_read(entry[0]))
    if mismatched:
        key, found, wanted = mismatched[0]
        raise ValueError(
            f"[load_encoder] weight {key!r} must have shape {tuple(wanted)}, got {tuple(found)} in "
            f"{name!r}; the configuration and the weights do not belong together."
        )


def _drop_drawn(encoder: nn.Module, late: Collection[str], loading: dict[str, Any]) -> None:
    """Leave poolers out that the checkpoint lacks, as models do that are made without one."""
    drawn = [*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])]
    for module in late:
        parent, _, child = module.rpartition(".")
        if parent not in late and any(key.startswith(f"{module}.") for key in drawn):
            setattr(encoder.get_submodule(parent), child, None)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
