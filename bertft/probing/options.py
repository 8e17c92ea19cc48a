"""What a run of probes is asked for: tasks, names of layers, and seeds."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bertft.amounts import require_integers
from bertft.probing.assignments import LEXICAL, MIX, cumulative
from bertft.probing.structural_tasks import StructuralTask
from bertft.probing.tasks import STRUCTURAL, EdgeTask

Task = EdgeTask | StructuralTask

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

    @property
    def has_single(self) -> bool:
        """Whether there are layers that are probed one at a time."""
        return not {MIX, CUMULATIVE}.issuperset(self.names)

    @property
    def has_mixtures(self) -> bool:
        """Whether there are mixtures."""
        return not {MIX, CUMULATIVE}.isdisjoint(self.names)

    def mixtures(self, depth: int) -> list[str]:
        """Return the names of the mixtures that are probed."""
        mix = [MIX] if MIX in self.names else []
        every = range(depth + 1) if CUMULATIVE in self.names else ()
        return mix + [cumulative(layer) for layer in every]

    def alone(self) -> "Wanted":
        """Return these without mixtures.

        Raises:
            ValueError: there are no others.
        """
        others = tuple(name for name in self.names if name not in (MIX, CUMULATIVE))
        if not others:
            raise ValueError(
                f"[probe] layers must be single ones for structural probes, got "
                f"{', '.join(self.names)}; pass all, lexical or numbers."
            )
        return Wanted(others)

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
        TypeError: one that is no integer.
    """
    for seed in seeds if isinstance(seeds, Iterable) else [seeds]:
        require_integers("probe", seeds=seed)
    chosen = [int(s) for s in seeds] if isinstance(seeds, Iterable) else list(range(seeds))
    allowed = all(0 <= seed < MOST_SEED for seed in chosen)
    if not chosen or not allowed or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"[probe] seeds must be at least one, different and from 0 to 2**63 - 1, got {seeds}; "
            "pass how many, or which."
        )
    return chosen


def tasks_of(
    tasks: Mapping[str, str | os.PathLike[str] | Task], limit: int | None, punctuation: str | None
) -> list[Task]:
    """Return the tasks under their names, those that are folders read.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: none, or one that its files or its name do not allow.
    """
    if not tasks:
        raise ValueError("[probe] tasks must be at least one, got none; pass NAME=FOLDER.")
    return [_read_one(name, task, limit, punctuation) for name, task in tasks.items()]


def require_use(
    tasks: Sequence[Task], probe: str, rank: int | None, punctuation: str | None
) -> None:
    """Refuse options that no task has a use for.

    Raises:
        ValueError: a kind of probes of labels without a task of labels, or a rank or a rule for
            punctuation without trees.
    """
    if probe != "linear" and not any(isinstance(task, EdgeTask) for task in tasks):
        raise ValueError(
            f"[probe] probe must be left out without a task of labels, got {probe!r}; trees have "
            "distance and depth probes."
        )
    if any(isinstance(task, StructuralTask) for task in tasks):
        return
    for name, value in {"rank": rank, "punctuation": punctuation}.items():
        if value is not None:
            raise ValueError(
                f"[probe] {name} must be left out without structural tasks, got {value!r}; add "
                "structural=FOLDER, or leave it out."
            )


def symmetric_of(names: str | Sequence[str], tasks: Sequence[Task], probe: str) -> list[str]:
    """Return the names of the tasks whose spans share a projection, each once.

    Raises:
        ValueError: other probes than edge ones, or a task without two spans.
    """
    chosen = list(dict.fromkeys(name for name in split_names(names) if name))
    allowed = [task.name for task in tasks if isinstance(task, EdgeTask) and task.spans == 2]
    if unknown := [name for name in chosen if name not in allowed or probe != "edge"]:
        raise ValueError(
            f"[probe] symmetric must name tasks of edge probes with two spans, got "
            f"{', '.join(unknown)} for {probe} probes of {', '.join(allowed) or 'no such task'}; "
            "name others, or leave it out."
        )
    return chosen


def _read_one(
    name: str, task: str | os.PathLike[str] | Task, limit: int | None, punctuation: str | None
) -> Task:
    if isinstance(task, Task):
        return _named(name, task, limit, punctuation)
    if name == STRUCTURAL:
        return StructuralTask.read(task, limit, "upos" if punctuation is None else punctuation)
    return EdgeTask.read(name, task, limit)


def _named(name: str, task: Task, limit: int | None, punctuation: str | None) -> Task:
    if task.name != name or limit is not None:
        raise ValueError(
            f"[probe] tasks in memory must have the name they are passed under and no limit, got "
            f"{task.name!r} as {name!r} with limit {limit}; make the task as it is wanted."
        )
    if isinstance(task, StructuralTask) and punctuation is not None:
        raise ValueError(
            f"[probe] punctuation must be left out for trees in memory, got {punctuation!r}; pass "
            "it to StructuralTask.of."
        )
    return task
