"""What a folder of features is of: its index, new or beside what is asked for."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bertft.checkpoints import Checkpoint, fingerprint
from bertft.features import Key
from bertft.rows import Encoded, Rows
from bertft.shards import difference, names_in, read_index


def contents(
    sides: Mapping[str, Checkpoint], widths: Mapping[Key, int], dtype: torch.dtype, rows: Rows
) -> dict[str, Any]:
    """Return what an index says that features are of."""
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "data": _data_fingerprint(rows.texts),
        "models": {
            side: {
                "fingerprint": fingerprint(checkpoint.encoder),
                "layers": {str(n): d for (own, n), d in widths.items() if own == side},
            }
            for side, checkpoint in sides.items()
        },
    }


def matching(folder: Path, wanted: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the index of a folder with the same features, and its name for each side.

    Shards that are gone count as not captured: they were deleted because they were damaged.

    Raises:
        ValueError: features of something else, or a damaged index.
    """
    found = read_index(folder)
    stored = names_in(found["models"], wanted["models"])
    models = {stored[side]: model for side, model in wanted["models"].items()}
    for shard in found["shards"]:
        if not (folder / shard["file"]).is_file():
            shard["crc32"] = None
    whole = all(shard["crc32"] is not None for shard in found["shards"])
    if differing := difference(found, {**wanted, "models": models}, whole):
        raise ValueError(
            f"[features] folder must hold features of the same models, layers, data and dtype, "
            f"got {str(folder)!r}, {differing}; pass another folder."
        )
    return found, stored


def planned(wanted: Mapping[str, Any], offsets: Tensor, most: int) -> dict[str, Any]:
    """Return a new index with shards of up to `most` rows, none of which is captured.

    Args:
        wanted: see `contents`.
        offsets: `(texts + 1,)` the first row of each text, and the number of rows.
        most: rows of a shard, unless a single text has more.
    """
    shards = [
        {
            "file": f"{number:05}.safetensors",
            "texts": [first, last],
            "rows": offsets[[first, last]].tolist(),
            "crc32": None,
            "bytes": None,
        }
        for number, (first, last) in enumerate(_cuts(offsets.tolist(), most))
    ]
    return {**wanted, "offsets": offsets.tolist(), "shards": shards}


def _cuts(ends: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Ranges of texts with at most `most` rows, or of a single text with rows."""
    first = 0
    for text in range(1, len(ends) - 1):
        if ends[first] < ends[text] < ends[text + 1] and ends[text + 1] - ends[first] > most:
            yield first, text
            first = text
    yield first, len(ends) - 1


def _data_fingerprint(texts: Iterable[Encoded]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        for part in (text.ids, text.starts, text.stops):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part.tobytes())
    return digest.hexdigest()
