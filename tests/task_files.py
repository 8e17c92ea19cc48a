"""Tiny training files of the three tasks, in words that the tiny tokenizer knows."""

import json
import random

NOUNS, VERBS, PLACES = ("cat", "dog", "boat"), ("sat", "ran", "saw"), ("mat", "hill")


def write_all(folder, n=24, seed=0):
    """Write train and dev files of every task and return {task: (train, dev)}."""
    files = {}
    for task, (write, ending) in WRITERS.items():
        paths = []
        for part, count in (("train", n), ("dev", n // 2)):
            path = folder / f"{task}-{part}.{ending}"
            write(path, count, random.Random(f"{seed} {part}"))
            paths.append(path)
        files[task] = tuple(paths)
    return files


def treebank(path, n, draw):
    blocks = []
    for i in range(n):
        words = ["the", draw.choice(NOUNS), draw.choice(VERBS), "on", "a", draw.choice(PLACES)]
        tags = ["DET", "NOUN", "VERB", "ADP", "DET", "NOUN", "PUNCT"]
        heads, labels = [2, 3, 0, 6, 6, 3], ["det", "nsubj", "root", "case", "det", "obl:loc"]
        if i % 2:
            words, heads, labels = [*words, "."], [*heads, 3], [*labels, "punct"]
        columns = zip(words, tags[: len(words)], heads, labels, strict=True)
        lines = [f"# sent_id = s{i}"]
        lines += [
            "\t".join([str(k), word, word, tag, "X", "_", str(head), label, "_", "_"])
            for k, (word, tag, head, label) in enumerate(columns, 1)
        ]
        blocks.append("\n".join(lines) + "\n\n")
    path.write_text("".join(blocks))


def pairs(path, n, draw):
    rows = []
    for i in range(n):
        noun, verb, place = draw.choice(NOUNS), draw.choice(VERBS), draw.choice(PLACES)
        label = ("entailment", "neutral", "contradiction")[i % 3]
        other = {"entailment": noun, "neutral": "old " + noun, "contradiction": "red boat"}[label]
        rows.append(
            {
                "premise": f"the {noun} {verb} on a {place} .",
                "hypothesis": f"a {other} {verb} .",
                "label": label,
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def questions(path, n, draw):
    paragraphs = []
    for i in range(n):
        noun, place = draw.choice(NOUNS), draw.choice(PLACES)
        context = f"the old dog sat on the hill . the {noun} ran under a {place} . " * (1 + i % 3)
        answer = f"a {place}"
        asked = {
            "id": f"q{i}",
            "question": f"the {noun} ran under ?",
            "answers": [{"text": answer, "answer_start": context.index(answer)}],
        }
        paragraphs.append({"context": context, "qas": [asked]})
    file = {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(file))


WRITERS = {
    "depparse": (treebank, "conllu"),
    "mnli": (pairs, "jsonl"),
    "squad": (questions, "json"),
    "tagging": (treebank, "conllu"),
}
