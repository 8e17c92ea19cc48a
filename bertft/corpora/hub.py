"""Examples from a file or a data set of the Hugging Face hub: one choice for all readers.

Owns how a data set is named and loaded. Which fields an example has is for its reader to say.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft.corpora import is_whole
from bertft.quiet import quiet

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

# A split may be cut as `datasets` writes it, such as train[:1000].
_NAME = re.compile(r"(.+?):(\w[\w.-]*(?:\[[^\]]*\])?)")
_BATCH = 1000


@dataclass(frozen=True)
class Record:
    """The fields of one example, its number from 1 and where it is, in words for errors."""

    where: str
    number: int
    fields: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Return a field that must be a string.

        Raises:
            ValueError: no such field, or another type.
        """
        value = self.fields.get(name)
        if isinstance(value, str) and not is_whole(value):
            raise ValueError(
                f"[corpora] {self.where} must have whole characters in {name!r}, got half of a "
                "surrogate pair; mend it."
            )
        if not isinstance(value, str):
            found = f"{value!r:.40}" if name in self.fields else f"fields {sorted(self.fields)}"
            raise ValueError(
                f"[corpora] {self.where} must have a string {name!r}, got {found}; mend it."
            )
        return value


def records(
    path: str | os.PathLike[str], read_file: Callable[[Path], Iterator[Record]]
) -> Iterator[Record]:
    """Return the records of a file, or the rows of a data set.

    Args:
        path: an existing file; or `NAME:SPLIT` or `NAME/CONFIG:SPLIT` on the hub, such as
            "nyu-mll/glue/mnli:train"; or `FOLDER:SPLIT` with files that `datasets` reads or that
            it saved (`save_to_disk`), without a split where a single one was.
        read_file: reader of a file.

    Raises:
        FileNotFoundError: no such file, folder or data set, or a hub that cannot be reached.
        ValueError: a configuration or split that the data set does not have.
    """
    file = Path(path).expanduser()
    if file.is_file():
        return read_file(file)
    if _is_saved(file):
        return _rows(os.fspath(path), str(file), None, None)
    named = _NAME.fullmatch(os.fspath(path))
    if named is None and file.is_dir():
        raise FileNotFoundError(
            f"[corpora] data must name a split where it is a folder, got {os.fspath(path)!r}; "
            "write it as FOLDER:train, or pass one of its files."
        )
    if named is None:
        raise FileNotFoundError(
            f"[corpora] data must be an existing file or a data set as NAME:SPLIT, got "
            f"{os.fspath(path)!r}; check the path, or name one as in 'rajpurkar/squad:train'."
        )
    return _rows(named[0], *_place(named[1]), named[2])


def _place(name: str) -> tuple[str, str | None]:
    """Folder or name on the hub, and configuration."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        # A relative folder could be named as one of the loaders of `datasets`, such as "json".
        return str(folder.resolve()), None
    parts = name.split("/")
    if parts[0] in ("", ".", "..", "~") or len(parts) > 3:
        raise FileNotFoundError(
            f"[corpora] data must be an existing folder before its split, got {name!r}; check the "
            "path."
        )
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None


def rows_of(dataset: Any, columns: Sequence[str]) -> Any:
    """Return the rows of a data set in memory, or of a data frame, with some columns or all.

    What is missing from a data frame is None.
    """
    if hasattr(dataset, "select_columns"):
        return dataset.select_columns(list(columns)) if columns else dataset
    frame = dataset.rename(columns=str)
    frame = frame[list(columns)] if columns else frame
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a single data set there."""
    return (folder / "state.json").is_file()


def _rows(source: str, place: str, config: str | None, split: str | None) -> Iterator[Record]:
    from datasets import ClassLabel

    dataset = _load(source, place, config, split)
    names = {
        column: feature.names
        for column, feature in dataset.features.items()
        if isinstance(feature, ClassLabel)
    }
    number = 0
    for table in dataset.with_format("arrow").iter(_BATCH):
        for row in table.to_pylist():
            number += 1
            for column, labels in names.items():
                # -1 stands for no label, and has no name.
                if row[column] is not None and row[column] >= 0:
                    row[column] = labels[row[column]]
            yield Record(f"{source}, row {number}", number, row)


def _load(source: str, place: str, config: str | None, split: str | None) -> "Dataset":
    import datasets

    try:
        with quiet(), _quiet_datasets():
            if _is_saved(Path(place)):
                return datasets.load_from_disk(place)
            if (Path(place) / "dataset_dict.json").is_file():
                return _split_of(datasets.load_from_disk(place), split)
            return datasets.load_dataset(place, config, split=split)
    except Exception as error:  # what it raises depends on loader, hub client and network
        kind = ValueError if isinstance(error, ValueError) else FileNotFoundError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise kind(
            f"[corpora] {source} must be a file, or a data set that can be loaded, got: {reason}; "
            "check the name, its configuration and split and the connection (HF_HUB_OFFLINE), or "
            "pass a file."
        ) from error


def _split_of(splits: "DatasetDict", split: str | None) -> "Dataset":
    if split not in splits:
        raise ValueError(f"split must be one of {', '.join(splits)}, got {split!r}")
    return splits[split]


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    import datasets
    from datasets.utils import logging

    verbosity, bars = logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
