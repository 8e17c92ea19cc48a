"""The files of captured features: shards behind memory maps with checksums, and their index.

Owns the formats and what is told of damage. What the rows are of is for `features`.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from bertft.files import load_tensors, write_text

INDEX, FORMAT, VERSION = "features.json", "bertft features", 1


@dataclass
class Shard:
    """Some consecutive rows: in memory, or in a file that is mapped when it is first needed.

    Attributes:
        n: number of rows.
        tensors: the rows of each layer by name, once they are mapped.
        path: of the file; None for memory.
        crc32: checksum of the file.
        nbytes: its size.
    """

    n: int
    tensors: dict[str, Tensor] | None
    path: Path | None = None
    crc32: int = 0
    nbytes: int = 0
    _opening: Lock = field(default_factory=Lock)

    def tensor(self, name: str) -> Tensor:
        """Return the rows of a layer, mapped."""
        with self._opening:
            if self.tensors is None:
                assert self.path is not None
                require_whole(self.path, self.nbytes, self.crc32)
                # Tensors of inference mode could not be used for training.
                with torch.inference_mode(False):
                    self.tensors, _ = load_tensors(self.path, FORMAT)
        return self.tensors[name]


def require_whole(path: Path, nbytes: int, crc32: int) -> None:
    """Refuse a shard whose size or checksum is not as it was."""
    size = path.stat().st_size if path.is_file() else 0
    wanted, found = (f"{number} bytes" for number in (nbytes, size))
    if wanted == found:
        wanted, found = (f"the checksum {n:08x}" for n in (crc32, checksum(path)))
    if wanted != found:
        raise ValueError(
            f"[features] shard {str(path)!r} must have {wanted}, got {found}; delete it and "
            "capture into the folder again."
        )


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(1 << 22):
            value = zlib.crc32(chunk, value)
    return value


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a folder with features, whole or not.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a damaged index, or one of another format.
    """
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"[features] folder must hold features, got {str(folder)!r} without {INDEX}; capture "
            "into it first."
        )
    damage = "its checksum is another"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = found["format"] == FORMAT and found["version"] == VERSION
        index: dict[str, Any] = found["index"] if known else {}
        whole = not known or found["crc32"] == zlib.crc32(json.dumps(index).encode())
    except (ValueError, KeyError, TypeError) as error:
        damage, whole = f"{type(error).__name__}: {error}", False
    if not whole:
        raise ValueError(
            f"[features] {INDEX} must be a whole index, got {str(path)!r} ({damage}); delete the "
            "folder."
        )
    if not known:
        raise ValueError(
            f"[features] {INDEX} must be of format {FORMAT!r} {VERSION}, got {str(path)!r}; "
            "capture into another folder."
        )
    return index


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Write the index of a folder, with its checksum, atomically."""
    crc32 = zlib.crc32(json.dumps(index).encode())
    whole = {"format": FORMAT, "version": VERSION, "crc32": crc32, "index": index}
    write_text(folder / INDEX, json.dumps(whole))


def names_in(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    """Return for each side the name under which a folder has its weights, else its own.

    A path may be spelled in many ways, and a model may move.

    Args:
        found: the models of the folder's index, by name.
        wanted: the models that are asked for, by side.
    """
    by_weights = {model["fingerprint"]: name for name, model in found.items()}
    return {
        side: side
        if side in found and found[side]["fingerprint"] == model["fingerprint"]
        else by_weights.get(model["fingerprint"], side)
        for side, model in wanted.items()
    }


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any], whole: bool) -> str | None:
    """Return what a folder's index has otherwise than is wanted, as a clause; None for nothing.

    Args:
        found: the index of the folder.
        wanted: the index that is asked for.
        whole: whether all shards are there; more models and layers do not matter then.
    """
    for key in ("dtype", "data"):
        if found[key] != wanted[key]:
            return f"whose {key} differs"
    for side in wanted["models"] if whole else found["models"] | wanted["models"]:
        model, own = (index["models"].get(side) for index in (wanted, found))
        if own is None:
            return f"of {', '.join(map(repr, found['models']))} and not {side!r}"
        if model is None:
            return f"whose capture of {side!r} too was cut short"
        if own["fingerprint"] != model["fingerprint"]:
            return f"whose model {side!r} differs"
        more = own["layers"].keys() - model["layers"].keys()
        if model["layers"].keys() - own["layers"].keys() or (more and not whole):
            return f"whose set of layers of {side!r} differs"
    return None
