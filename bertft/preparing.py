"""From a corpus to a task, decided and checked before any model runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from bertft.blocks import Layer
from bertft.budget import Need, Storage, available_memory, choose_storage, sums_bytes
from bertft.checkpoints import Checkpoint
from bertft.choosing import choose, columns_of, notes_on_intervals
from bertft.corpora import Corpus
from bertft.moments import BLOCK_ROWS
from bertft.pairing import Encodings, common_rows, encode_sides, shares_tokens
from bertft.planning import (
    FINETUNED,
    PERMUTED_ROWS,
    PRETRAINED,
    Options,
    Task,
    block_rows,
    layer_pairs,
    row_maps_of,
)
from bertft.rows import FIRST, SEGMENTS, Rows
from bertft.similarity import MEASURES, SAMPLED
from bertft.tokenizing import of_segment


def prepare(
    corpus: Corpus,
    sides: Mapping[str, Checkpoint],
    options: Options,
    device: torch.device,
    *,
    corpora: int = 1,
) -> list[Task]:
    """Encode a corpus, draw its rows and choose its measures; rows are summed on a device.

    Returns a task for each group of rows and fine-tuned model; they share a pass, and the rows of a
    group are the same for all models. The sums of all `corpora` of a comparison have to fit.

    Raises:
        ValueError: rows that the models do not have in common, too few rows or texts, a length or a
            measure that is not possible, or statistics that fit nowhere.
    """
    is_pair = any(text.second is not None for text in corpus.texts)
    bound = _bound_of(options.max_length, sides, is_pair)
    encodings = encode_sides(
        corpus.texts,
        sides,
        options.rows,
        bound,
        options.pieces,
        specials=options.group == "segment",
    )
    _require_known_tokens(encodings, sides)
    groups, notes = _grouped(corpus.name, encodings, options)
    tuned = [role for role in sides if role != PRETRAINED]
    memory = _memory(options, device) // (len(groups) * len(tuned))
    tasks = []
    for name, own in groups.items():
        everything, views = common_rows(own, options.limit, options.seed)
        available = everything[PRETRAINED].n
        for role in tuned:
            two = {PRETRAINED: sides[PRETRAINED], FINETUNED: sides[role]}
            seen = {side: views[side] for side in (PRETRAINED, role)}
            task = _task(
                name, corpus, two, seen, available, options, bound, device, memory, corpora
            )
            tasks.append(replace(task, finetuned=role))
    if corpus.empty:
        notes.insert(0, f"{corpus.name}: {corpus.empty} texts are empty and were left out.")
    tasks[0].notes[:0] = notes
    return tasks


def _grouped(
    corpus: str, encodings: Encodings, options: Options
) -> tuple[dict[str, Encodings], list[str]]:
    """The rows of each group under its name, and which of the groups there are not."""
    if options.group is None:
        return {corpus: encodings}, []
    groups: dict[str, Encodings] = {}
    for number, segment in enumerate(SEGMENTS):
        views = {id(own): of_segment(own, number) for own in encodings.values()}
        if number == FIRST or any(len(text.starts) for own in views.values() for text in own):
            groups[f"{corpus}/{segment}"] = {r: views[id(own)] for r, own in encodings.items()}
    absent = [name for name in SEGMENTS if f"{corpus}/{name}" not in groups]
    if not absent:
        return groups, []
    why = "" if shares_tokens(encodings) else " (those of different tokenizers have no order)"
    return groups, [f"{corpus}: no rows of {' and '.join(absent)}{why}."]


def _task(
    name: str,
    corpus: Corpus,
    sides: Mapping[str, Checkpoint],
    views: Mapping[str, Rows],
    available: int,
    options: Options,
    bound: int | None,
    device: torch.device,
    memory: int,
    corpora: int,
) -> Task:
    rows = views[PRETRAINED]
    if rows.n < 2:
        raise ValueError(
            f"[compare] rows must be at least 2, got {rows.n} {options.rows} in {name!r}; "
            "pass more text, or a larger limit or max_length."
        )
    notes = _notes_on(name, rows, bound)
    pairs = layer_pairs(sides, options)
    chosen = choose(options, rows.n, sides, pairs, name, notes)
    bounds = group_bounds(rows, options.groups, name) if options.groups else []
    columns = columns_of(sides, pairs)
    notes += notes_on_intervals(name, chosen, bounds, columns, options)
    measures = [of for of in chosen if of in MEASURES]
    sampled = [of for of in chosen if of in SAMPLED]
    need = _needs(sides, pairs, measures, sampled, rows.n, options, device, corpora)
    ways_out = _ways_out(options, measures, bool(sampled), corpora)
    storage, pairs_at_once = _storage(need, options, name, memory, ways_out)
    return Task(
        name,
        corpus.source,
        corpus.fingerprint,
        len(corpus.texts),
        corpus.empty,
        views,
        available,
        measures,
        sampled,
        pairs,
        options,
        bound,
        bounds,
        storage,
        pairs_at_once,
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


def _bound_of(max_length: int | None, sides: Mapping[str, Checkpoint], is_pair: bool) -> int | None:
    """The most tokens of an input."""
    limits = [side.max_length for side in sides.values() if side.max_length is not None]
    if max_length is not None and limits and max_length > min(limits):
        raise ValueError(
            f"[compare] max_length must be at most what the models take, {min(limits)}, got "
            f"{max_length}; pass less."
        )
    special = max(side.tokenizer.num_special_tokens_to_add(is_pair) for side in sides.values())
    if max_length is not None and max_length <= special + is_pair:
        raise ValueError(
            f"[compare] max_length must leave room beside {special} special tokens, got "
            f"{max_length}; pass at least {special + is_pair + 1}."
        )
    return max_length or min(limits, default=None)


def _storage(
    need: Mapping[Storage, Need], options: Options, corpus: str, memory: int, ways_out: str
) -> tuple[Storage | None, int]:
    """How groups are kept, and how many pairs are solved at once in the memory that is left."""
    storage = choose_storage(need["rows"], need["sums"], options.groups, memory, corpus, ways_out)
    at_once = need[storage or "rows"].pairs_at_once(options.groups, storage, memory)
    # With four for each thread none of them waits long for the last.
    return storage, min(at_once, 4 * torch.get_num_threads())


def _needs(
    sides: Mapping[str, Checkpoint],
    pairs: Sequence[tuple[Layer, Layer]],
    measures: Sequence[str],
    sampled: Sequence[str],
    n: int,
    options: Options,
    device: torch.device,
    corpora: int = 1,
) -> dict[Storage, Need]:
    """What a pass needs with blocks of the usual size, and with those for sums of groups."""
    columns = columns_of(sides, pairs)
    first, second = (
        [side.blocks.width(layer) for layer in dict.fromkeys(layers)]
        for side, layers in zip(sides.values(), zip(*pairs, strict=True), strict=True)
    )
    widths = [*first, *second]
    is_wide = next(iter(sides.values())).encoder.dtype == torch.float64
    itemsize = 8 if is_wide else 4
    row_bytes = sum(widths) * itemsize
    sums = sums_bytes(widths, columns, len(row_maps_of(measures)))
    # A pair and its factorizations are some 14 matrices; what is kept of a layer are its whole and
    # its centered product under each row map, its eigenvectors and what whitens it.
    maps, matrix = len(row_maps_of(measures)), 8 * max(widths) ** 2
    pair = 14 * matrix
    solving = pair + (2 * maps + 2) * len(widths) * matrix
    kept = min(n, options.sample)
    # Of same-numbered layers one of each model is prepared at a time.
    layers = 1 + (len(second) if options.pairs == "all" else 1)
    sampling = [SAMPLED[name].nbytes(kept, max(widths), layers, itemsize) for name in sampled]
    if options.permutations:
        sampling.append(5 * 8 * min(kept, PERMUTED_ROWS) ** 2)
    # Their ranks are those of the sums of the sample.
    described = 2 * sums_bytes(widths, [], 1) if sampled else 0
    sample = kept * row_bytes if sampling else 0
    blocks = 2 if device.type == "cuda" else 1

    def need(storage: Storage) -> Need:
        block = blocks * min(n, block_rows(storage, options.groups or 0, device))
        packed = maps * min(n, BLOCK_ROWS)  # under every row map
        block_bytes = (block + packed) * row_bytes
        return Need(
            sums,
            solving,
            pair,
            block_bytes,
            sample,
            n * row_bytes,
            described + max(sampling, default=0),
            corpora,
        )

    return {"rows": need("rows"), "sums": need("sums")}


def _ways_out(options: Options, measures: Sequence[str], has_sampled: bool, corpora: int) -> str:
    """What would need less memory."""
    ways = ["a corpus at a time"] if corpora > 1 else []
    if options.pairs == "all":
        ways.append("pairs='same'")
    if options.groups is not None:
        ways.append("no intervals")
    if len(row_maps_of(measures)) > 1:
        ways.append("fewer measures (rsa alone, or none of rsa and cosine, halves it)")
    if has_sampled or options.permutations:
        ways.append("a smaller sample")
    return f"{', '.join(ways)}, or more memory_gib" if ways else "more memory_gib"


def _memory(options: Options, device: torch.device) -> int:
    """Bytes that may be used."""
    if options.memory_gib is not None:
        return int(options.memory_gib * 2**30)
    return _free_memory(device)


def _free_memory(device: torch.device) -> int:
    """Bytes for statistics, which come to the CPU in the end; on a GPU the models need some too."""
    memory = int(0.8 * available_memory())
    if device.type == "cuda":
        return min(memory, int(0.6 * torch.cuda.mem_get_info(device)[0]))
    return memory


def _require_known_tokens(encodings: Encodings, sides: Mapping[str, Checkpoint]) -> None:
    for role, side in sides.items():
        largest = max((int(text.ids.max()) for text in encodings[role] if len(text.ids)), default=0)
        known = len(side.encoder.get_input_embeddings().state_dict()["weight"])
        if largest >= known:
            raise ValueError(
                f"[compare] token ids must be below the {known} that {side.name!r} embeds, got "
                f"{largest}; pass the tokenizer that belongs to the model."
            )


def _notes_on(name: str, rows: Rows, bound: int | None) -> list[str]:
    notes = []
    if rows.truncated_texts:
        words = f", which leaves out {rows.truncated_words} words" if rows.truncated_words else ""
        notes.append(
            f"{name}: {rows.truncated_texts} texts are longer than {bound} tokens and were cut"
            f"{words}."
        )
    if rows.dropped_words:
        notes.append(f"{name}: {rows.dropped_words} words have no token and were left out.")
    if rows.unpaired_words:
        notes.append(
            f"{name}: {rows.unpaired_words} words have a token in one model and none in another, "
            "and were left out."
        )
    return notes
