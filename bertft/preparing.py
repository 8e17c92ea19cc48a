"""From a corpus to a task, decided and checked before any model runs."""

from collections.abc import Mapping, Sequence

import torch

from bertft.blocks import Layer
from bertft.budget import Need, Storage, available_memory, choose_storage, sums_bytes
from bertft.checkpoints import Checkpoint, require_same_tokens
from bertft.corpora import Corpus
from bertft.planning import Options, Task, block_rows, layer_pairs, row_maps_of
from bertft.rows import Rows, draw, encode
from bertft.similarity import MEASURES, SAMPLED


def prepare(
    corpus: Corpus, sides: Mapping[str, Checkpoint], options: Options, device: torch.device
) -> Task:
    """Encode a corpus, draw its rows and choose its measures; rows are summed on a device.

    Raises:
        ValueError: different tokens, too few rows or texts, a length or a measure that is not
            possible, or statistics that fit nowhere.
    """
    a, b = sides.values()
    require_same_tokens(a, b, [text.text for text in corpus.texts])
    bound = _bound_of(options.max_length, a, b)
    everything = encode(corpus.texts, a.tokenizer, options.rows, bound)
    _require_known_tokens(everything, sides)
    rows = draw(everything, options.limit, options.seed)
    if rows.n < 2:
        raise ValueError(
            f"[compare] rows must be at least 2, got {rows.n} {options.rows} in {corpus.name!r}; "
            "pass more text, or a larger limit or max_length."
        )
    notes = _notes_on(corpus.name, rows, bound)
    pairs = layer_pairs(sides, options)
    chosen = _choose(options, rows.n, sides, pairs, corpus.name, notes)
    bounds = group_bounds(rows, options.groups, corpus.name) if options.groups else []
    measures = [name for name in chosen if name in MEASURES]
    sampled = [name for name in chosen if name in SAMPLED]
    storage = _storage(sides, pairs, measures, bool(sampled), rows.n, options, corpus.name, device)
    return Task(
        corpus.name,
        corpus.source,
        corpus.fingerprint,
        len(corpus.texts),
        rows,
        everything.n,
        measures,
        sampled,
        pairs,
        options,
        bound,
        bounds,
        storage,
        device,
        notes,
    )


def group_bounds(rows: Rows, groups: int, corpus: str) -> list[int]:
    """Return the number of the first row of each group, and of rows.

    A group is a run of whole texts in the order of the corpus, so that neighbors, which are not
    independent, are left out together; runs have about equal numbers of rows.

    Raises:
        ValueError: fewer texts than groups, or a text so long that a group gets none.
    """
    starts = [text.first for text in rows.texts]
    group_of = [start * groups // rows.n for start in starts]
    found = set(group_of)
    if len(found) < groups:
        raise ValueError(
            f"[compare] groups must each have texts of their own, got {groups} groups and "
            f"{len(starts)} texts with rows, which make {len(found)}, in {corpus!r}; pass more "
            "text, or fewer groups."
        )
    return [starts[group_of.index(group)] for group in range(groups)] + [rows.n]


def _bound_of(max_length: int | None, a: Checkpoint, b: Checkpoint) -> int | None:
    """The most tokens of a text."""
    limits = [bound for bound in (a.max_length, b.max_length) if bound is not None]
    if max_length is not None and limits and max_length > min(limits):
        raise ValueError(
            f"[compare] max_length must be at most what the models take, {min(limits)}, got "
            f"{max_length}; pass less."
        )
    special = a.tokenizer.num_special_tokens_to_add()
    if max_length is not None and max_length <= special:
        raise ValueError(
            f"[compare] max_length must leave room beside {special} special tokens, got "
            f"{max_length}; pass at least {special + 1}."
        )
    return max_length or min(limits, default=None)


def _storage(
    sides: Mapping[str, Checkpoint],
    pairs: Sequence[tuple[Layer, Layer]],
    measures: Sequence[str],
    needs_sample: bool,
    n: int,
    options: Options,
    corpus: str,
    device: torch.device,
) -> Storage | None:
    columns = _columns(sides, pairs)
    layers = (set(side) for side in zip(*pairs, strict=True))
    widths = [
        side.blocks.width(layer)
        for side, own in zip(sides.values(), layers, strict=True)
        for layer in own
    ]
    is_wide = next(iter(sides.values())).encoder.dtype == torch.float64
    row_bytes = sum(widths) * (8 if is_wide else 4)
    sums = sums_bytes(widths, columns, len(row_maps_of(measures)))
    matrices = 20 * 4 * torch.get_num_threads() + 4 * len(widths)
    solving = 8 * matrices * max(widths) ** 2
    sample = options.sample if needs_sample or options.permutations else 0

    blocks = 2 if device.type == "cuda" else 1

    def need(storage: Storage | None) -> Need:
        block = blocks * min(n, block_rows(storage, options.groups or 0, device))
        return Need(sums, solving, block * row_bytes, min(n, sample) * row_bytes, n * row_bytes)

    budget = options.memory_gib
    memory = int(budget * 2**30) if budget is not None else _free_memory(device)
    return choose_storage(
        need("rows"),
        need("sums"),
        options.groups,
        memory,
        corpus,
        _ways_out(options, measures, sample),
    )


def _ways_out(options: Options, measures: Sequence[str], sample: int) -> str:
    """What would need less memory."""
    ways = ["pairs='same'"] if options.pairs == "all" else []
    if len(row_maps_of(measures)) > 1:
        ways.append("fewer measures (rsa alone, or none of rsa and cosine, halves it)")
    if sample:
        ways.append("a smaller sample")
    return f"{', '.join(ways)}, or more memory_gib" if ways else "more memory_gib"


def _columns(
    sides: Mapping[str, Checkpoint], pairs: Sequence[tuple[Layer, Layer]]
) -> list[tuple[int, int]]:
    """Columns of both layers of each pair."""
    first, second = (side.blocks for side in sides.values())
    return [(first.width(a), second.width(b)) for a, b in pairs]


def _free_memory(device: torch.device) -> int:
    """Bytes for statistics, which come to the CPU in the end; on a GPU the models need some too."""
    memory = int(0.8 * available_memory())
    if device.type == "cuda":
        return min(memory, int(0.6 * torch.cuda.mem_get_info(device)[0]))
    return memory


def _require_known_tokens(rows: Rows, sides: Mapping[str, Checkpoint]) -> None:
    largest = max(int(text.ids.max()) for text in rows.texts)
    for side in sides.values():
        known = len(side.encoder.get_input_embeddings().state_dict()["weight"])
        if largest >= known:
            raise ValueError(
                f"[compare] token ids must be below the {known} that {side.name!r} embeds, got "
                f"{largest}; pass the tokenizer that belongs to the model."
            )


def _notes_on(name: str, rows: Rows, bound: int | None) -> list[str]:
    notes = []
    if rows.truncated_texts:
        notes.append(
            f"{name}: {rows.truncated_texts} texts are longer than {bound} tokens and were cut, "
            f"which leaves out {rows.truncated_words} words."
        )
    if rows.dropped_words:
        notes.append(f"{name}: {rows.dropped_words} words have no token and were left out.")
    return notes


def _choose(
    options: Options,
    n: int,
    sides: Mapping[str, Checkpoint],
    pairs: Sequence[tuple[Layer, Layer]],
    corpus: str,
    notes: list[str],
) -> list[str]:
    """The measures that these rows allow; one that was asked for by name must be among them."""
    columns = _columns(sides, pairs)
    d = max(map(max, columns))
    default = [name for name, measure in MEASURES.items() if measure.default]
    chosen = list(options.measures or default)
    of_sums = [name for name in chosen if name in MEASURES]
    sampled = min(n, options.sample)
    short = [name for name in of_sums if MEASURES[name].n_above_d and n <= d and not options.ridge]
    few = [name for name in of_sums if n < MEASURES[name].least_rows]
    least = {name: SAMPLED[name].least_rows for name in chosen if name in SAMPLED}
    few_sampled = [name for name in least if sampled < least[name]]
    is_uneven = any(a != b for a, b in columns)
    unequal = [name for name in of_sums if MEASURES[name].same_width and is_uneven]
    why = []
    if short:
        why.append(
            f"{', '.join(short)} need more rows than columns, got n={n} and d={d} on {corpus!r}; "
            "pass more text or a larger limit, ridge, or use svcca or cka_debiased"
        )
    if few:
        why.append(f"{', '.join(few)} need more rows, got n={n} on {corpus!r}; pass more text")
    if few_sampled:
        remedy = "pass more text or a larger limit" if sampled == n else "pass a larger sample"
        why.append(
            f"{', '.join(few_sampled)} need a sample of {max(least[name] for name in few_sampled)} "
            f"rows, got {sampled} of n={n} on {corpus!r}; {remedy}"
        )
    if unequal:
        why.append(f"{', '.join(unequal)} need layers of the same width; use rsa or cka")
    if options.measures and why:
        raise ValueError(f"[compare] measures must suit the rows: {'; '.join(why)}.")
    notes.extend(f"left out: {reason}." for reason in why)
    return [name for name in chosen if name not in {*short, *few, *few_sampled, *unequal}]
