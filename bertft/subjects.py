"""The encoders that are probed, and one of them at a time: what `probe` is made of.

Owns the names of layers and controls, which models share a pass, and where features are kept.
"""

import copy
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bertft.checkpoints import Checkpoint, same_rules
from bertft.features import DTYPES, Features
from bertft.models import find_blocks, inference, randomize
from bertft.probing.assignments import LEXICAL, MIX, Assignment, Part, Row, cumulative
from bertft.probing.families import Training
from bertft.probing.scores import Tally
from bertft.probing.tasks import EdgeTask
from bertft.progress import Display
from bertft.recording import GIB, feature_bytes, record

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RANDOMIZED, CONTROL_TASK = "randomized", "control-task"
CONTROLS = (RANDOMIZED, CONTROL_TASK)
ALL, CUMULATIVE = "all", "cumulative"
MOST_SEED = 2**63


@dataclass(frozen=True)
class Wanted:
    """The layers to probe: numbers, "all", "mix", "cumulative" and "lexical", each once."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, layers: int | str | Sequence[str | int]) -> "Wanted":
        """Read a number, names joined by commas, or a sequence of names and numbers.

        Raises:
            ValueError: none, or something else.
        """
        names = split_names(str(layers) if isinstance(layers, int) else layers)
        known = (ALL, MIX, CUMULATIVE, LEXICAL)
        unknown = [name for name in names if name not in known and not name.isdecimal()]
        if unknown or not names:
            raise ValueError(
                f"[probe] layers must be numbers or among {', '.join(known)}, got "
                f"{', '.join(unknown) or 'none'}; pass some of them, joined by commas."
            )
        return cls(tuple(dict.fromkeys(names)))

    def single(self, model: str, depth: int) -> dict[str, int]:
        """Return the layers that are probed one at a time, under their names.

        Raises:
            ValueError: a number beyond the model's depth.
        """
        numbers = {int(name) for name in self.names if name.isdecimal()}
        if beyond := [number for number in numbers if number > depth]:
            raise ValueError(
                f"[probe] layers must be at most the {depth} of {model!r}, got {max(beyond)}; pass "
                "smaller numbers."
            )
        numbers |= set(range(depth + 1)) if ALL in self.names else set()
        lexical = {LEXICAL: 0} if LEXICAL in self.names else {}
        return lexical | {str(number): number for number in sorted(numbers)}

    def mixtures(self, depth: int) -> list[str]:
        """Return the names of the mixtures that are probed."""
        mix = [MIX] if MIX in self.names else []
        every = range(depth + 1) if CUMULATIVE in self.names else ()
        return mix + [cumulative(layer) for layer in every]

    def captured(self, model: str, depth: int) -> list[int]:
        """Return the layers whose features are needed."""
        if self.mixtures(depth):
            return list(range(depth + 1))
        return sorted(set(self.single(model, depth).values()))


def split_names(names: str | Sequence[str | int]) -> list[str]:
    """Return names that are joined by commas, or in a sequence."""
    parts = names.split(",") if isinstance(names, str) else names
    return [str(part).strip() for part in parts]


def seeds_of(seeds: int | Sequence[int]) -> list[int]:
    """Return the seeds: how many, from 0, or which.

    Raises:
        ValueError: none, a negative one, one that is too large, or one twice.
    """
    chosen = list(range(seeds)) if isinstance(seeds, int) else [index(seed) for seed in seeds]
    allowed = all(0 <= seed < MOST_SEED for seed in chosen)
    if not chosen or not allowed or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"[probe] seeds must be at least one, different and from 0 to 2**63 - 1, got {seeds}; "
            "pass how many, or which."
        )
    return chosen


def controls_of(controls: str | Sequence[str]) -> list[str]:
    """Return the names of the controls, each once.

    Raises:
        ValueError: an unknown name.
    """
    names = [name for name in split_names(controls) if name]
    if unknown := [name for name in names if name not in CONTROLS]:
        raise ValueError(
            f"[probe] controls must be among {', '.join(CONTROLS)}, got {', '.join(unknown)}; "
            "check the spelling."
        )
    return list(dict.fromkeys(names))


def check_amounts(batch_size: int, memory_gib: float, features_dtype: str) -> None:
    """Refuse settings of the pass that are out of range.

    Raises:
        ValueError: one of them.
    """
    if batch_size < 1 or not memory_gib >= 0:
        raise ValueError(
            f"[probe] batch_size must be at least 1 and memory_gib at least 0, got {batch_size} "
            f"and {memory_gib}; leave them out for the defaults."
        )
    if features_dtype not in DTYPES:
        raise ValueError(
            f"[probe] features_dtype must be one of {', '.join(DTYPES)}, got {features_dtype!r}; "
            "pass its name."
        )


def open_subjects(
    models: "str | Path | PreTrainedModel | Sequence[str | Path | PreTrainedModel]",
    *,
    randomized: bool,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> dict[str, Checkpoint]:
    """Open the encoders under their names, the randomized control of the first one last.

    Raises:
        FileNotFoundError: no such model.
        ValueError: none, two of one name, or a checkpoint that cannot be read.
    """
    single = isinstance(models, str) or not isinstance(models, Sequence)
    several = cast("list[str | Path | PreTrainedModel]", [models] if single else models)
    opened = [Checkpoint.open(model, tokenizer=tokenizer) for model in several]
    names = [checkpoint.name for checkpoint in opened]
    if not opened or len({*names, RANDOMIZED}) <= len(names):
        raise ValueError(
            f"[probe] models must be at least one, with different names and none called "
            f"{RANDOMIZED!r}, got {names}; pass each once, or give a model in memory another "
            "name_or_path."
        )
    if randomized:
        first = opened[0]
        encoder = copy.deepcopy(first.encoder)
        randomize(encoder, seed=0)
        opened.append(replace(first, name=RANDOMIZED, encoder=encoder, blocks=find_blocks(encoder)))
    return {checkpoint.name: checkpoint for checkpoint in opened}


def by_tokens(subjects: Mapping[str, Checkpoint]) -> list[dict[str, Checkpoint]]:
    """Return groups of encoders whose tokenizers are alike: they share a pass."""
    groups: list[dict[str, Checkpoint]] = []
    for name, subject in subjects.items():
        for group in groups:
            if same_rules(next(iter(group.values())), subject):
                group[name] = subject
                break
        else:
            groups.append({name: subject})
    return groups


def assign(
    task: EdgeTask,
    training: Training,
    sides: Mapping[str, Checkpoint],
    seeds: Sequence[int],
    max_length: int | None,
    control: bool,
    code_length: bool,
) -> Assignment:
    """Set a task to the probes of encoders with one tokenizer.

    Raises:
        ValueError: a length beyond what a model takes, or no target that is left.
    """
    first = next(iter(sides.values()))
    limits = [side.max_length for side in sides.values() if side.max_length is not None]
    special = first.tokenizer.num_special_tokens_to_add()
    if max_length is not None and max_length <= special:
        raise ValueError(
            f"[probe] max_length must be more than the {special} special tokens of a sentence, got "
            f"{max_length}; pass more."
        )
    if max_length is not None and limits and max_length > min(limits):
        raise ValueError(
            f"[probe] max_length must be at most what the models take, {min(limits)}, got "
            f"{max_length}; pass less."
        )
    bound = max_length or min(limits, default=None)
    train, dev = (
        Part.of(task, records, first.tokenizer, bound, training.pooled)
        for records in (task.train, task.dev)
    )
    return Assignment(task, training, train, dev, seeds, control, code_length, list(sides))


@contextmanager
def captured(
    work: Assignment,
    sides: Mapping[str, Checkpoint],
    wanted: Wanted,
    store: Path | None,
    dtype: str,
    memory_gib: float,
    batch_size: int,
    device: "torch.device | None",
    display: Display,
) -> Iterator[tuple[Features, Features]]:
    """Yield the features of an assignment's training and dev rows.

    They are in a folder that stays (`store`), or else in memory, or in a folder that goes with the
    block where they need more than `memory_gib`.
    """
    layers = {name: wanted.captured(name, side.blocks.depth) for name, side in sides.items()}
    parts = {"train": work.train.rows, "dev": work.dev.rows}
    need = sum(feature_bytes(sides, rows, layers, dtype) for rows in parts.values()) / GIB
    kind = "spans" if work.training.pooled else "pieces"
    with ExitStack() as stack:
        folder = store / f"{work.task.name}-{kind}" if store is not None else None
        if folder is None and need > memory_gib:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bertft-")))
        where = f"in {folder}" if folder is not None else "in memory"
        display.note(f"{work.plan}; features {need:,.2f} GiB {where}")
        with inference(*(side.encoder for side in sides.values()), device=device):
            train, dev = (
                record(
                    sides,
                    rows,
                    layers=layers,
                    folder=folder / name if folder is not None else None,
                    dtype=dtype,
                    batch_size=batch_size,
                    memory_gib=memory_gib,
                    display=display,
                )
                for name, rows in parts.items()
            )
        yield train, dev


def probe_subject(
    work: Assignment,
    name: str,
    subject: Checkpoint,
    wanted: Wanted,
    features: tuple[Features, Features],
    display: Display,
) -> tuple[list[Row], dict[str, Tally]]:
    """Train and score an encoder's probes, layer by layer and then its mixtures."""
    depth = subject.blocks.depth
    single, mixtures = wanted.single(name, depth), wanted.mixtures(depth)
    rows: list[Row] = []
    tallies: dict[str, Tally] = {}
    # Layer 0 has two names where "lexical" is asked for beside it.
    names: dict[int, list[str]] = {}
    for layer, number in single.items():
        names.setdefault(number, []).append(layer)
    keys = [(name, number) for number in names]
    title = f"{work.task.name}, {name}"
    with display.bar(title, len(names) + len(mixtures), "layers") as bar:
        started = time.perf_counter()
        read_ahead = (part.prefetched(keys) for part in features)
        for layers, train, dev in zip(names.values(), *read_ahead, strict=True):
            found, tally = work.probe_layer(layers[0], train, dev)
            rows += [{**row, "layer": layer} for layer in layers for row in found]
            tallies |= dict.fromkeys(layers, tally)
            bar.advance(1)
        if mixtures:
            both = [[part.rows(name, number) for number in range(depth + 1)] for part in features]
            found, counts = work.probe_mixtures(mixtures, *both)
            rows += found
            tallies |= counts
            bar.advance(len(mixtures))
        display.note(f"{title}: {time.perf_counter() - started:,.0f} s")
    return [{"model": name, **row} for row in rows], tallies
