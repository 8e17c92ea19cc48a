"""Extractive question answering on SQuAD 1.1: exact match and token F1, in percent.

Long contexts are read in overlapping windows. A predicted answer is the likeliest span over all
windows of its question.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from bertft.corpora.squad import Question, read_questions
from bertft.finetuning.examples import Examples
from bertft.finetuning.recipe import Recipe
from bertft.finetuning.tasks import Features, Predict, Scores, Task, Tokens, pad_inputs

# As in the reference implementation of BERT.
LONGEST_QUESTION, LONGEST_ANSWER = 64, 30


class QuestionAnswering(Task):
    """SQuAD with transformers' span head."""

    name = "squad"
    recipe = Recipe(epochs=2, lr=3e-5, batch_size=12, max_length=384, doc_stride=128)
    measures = ("f1", "em")

    def read(self, path: str, *, skip_bad: bool) -> Examples:
        """Read questions; with `skip_bad`, those with bad offsets are left out and counted."""
        found = read_questions(path, skip_bad=skip_bad)
        return Examples(found.questions, path, {"bad questions": found.skipped})

    def labels(self, train: Examples) -> tuple[str, ...]:
        """None: the head points at tokens."""
        return ()

    def head(self) -> Callable[..., Any]:
        """Return what makes a model of a configuration."""
        from transformers import AutoModelForQuestionAnswering

        return AutoModelForQuestionAnswering.from_config

    def features(
        self, tokens: Tokens, items: Sequence[Any], labels: Sequence[str]
    ) -> list[Features]:
        """One input a window; a window without the answer points at the first token."""
        rows = windows(tokens, items)
        for row in rows:
            text, start = items[row["question"]].answers[0]
            row["span"] = _span(row["offsets"], start, start + len(text))
        return rows

    def collate(self, rows: Sequence[Features], pad_id: int) -> dict[str, Tensor]:
        """Token ids, mask, token types, and in training where the answer starts and ends."""
        inputs = pad_inputs(rows, pad_id)
        if "span" in rows[0]:
            inputs["spans"] = torch.tensor([row["span"] for row in rows])
        return inputs

    def loss(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the first and the last token, over the tokens of each window."""
        spans = batch.pop("spans")
        output = model(**batch)
        hidden = batch["attention_mask"] == 0
        # transformers' own loss lets padding into the softmax, so it would depend on the batch.
        ends = torch.stack([output.start_logits, output.end_logits], dim=1).float()
        ends = ends.masked_fill(hidden[:, None], -torch.inf)
        return functional.cross_entropy(ends.flatten(0, 1), spans.flatten())

    def score(
        self, tokens: Tokens, items: Sequence[Any], labels: Sequence[str], predict: Predict
    ) -> Scores:
        """Score the likeliest span of every question against its gold answers."""
        rows = windows(tokens, items)
        best = [(-np.inf, "")] * len(items)
        for numbers, output in predict(rows):
            starts = output.start_logits.float().cpu().numpy()
            ends = output.end_logits.float().cpu().numpy()
            for place, i in enumerate(numbers):
                row = rows[i]
                score, (start, stop) = likeliest_span(starts[place], ends[place], row["offsets"])
                question = row["question"]
                if score > best[question][0]:
                    best[question] = score, items[question].context[start:stop]
        answers = {question.id: best[i][1] for i, question in enumerate(items)}
        predictions = [{"id": name, "answer": answer} for name, answer in answers.items()]
        return Scores(answer_scores(items, answers), len(items), predictions=predictions)


def windows(tokens: Tokens, questions: Sequence[Question]) -> list[Features]:
    """Inputs `question + part of the context`, with character offsets of the context's tokens.

    `offsets` is `(tokens, 2)`, -1 outside the context; `question` is the question's number.

    Raises:
        ValueError: windows so short, or a stride so long, that contexts cannot be covered.
    """
    asked = [question.question.lstrip() for question in questions]
    offsets = tokens.tokenizer(asked, add_special_tokens=False, return_offsets_mapping=True)
    # Several tokens may be bytes of one character, and some begin with the space before a word.
    cut = [
        text[: min(spans[LONGEST_QUESTION - 1][1], spans[LONGEST_QUESTION][0])]
        if len(spans) > LONGEST_QUESTION
        else text
        for text, spans in zip(asked, offsets["offset_mapping"], strict=True)
    ]
    longest = min(LONGEST_QUESTION, max(map(len, offsets["input_ids"]), default=0))
    room = tokens.require_room(pair=True) - longest - len(tokens.first_of_pair(""))
    stride = tokens.recipe.doc_stride or 0
    if room < 1:
        raise ValueError(
            f"[finetune] max_length must leave room for context beside a question of {longest} "
            f"tokens, got {tokens.recipe.max_length}; pass more."
        )
    if stride >= room:
        raise ValueError(
            f"[finetune] doc_stride must be less than the {room} tokens that a question of "
            f"{longest} leaves in a window of {tokens.recipe.max_length}, got {stride}; pass a "
            "shorter stride or a larger max_length."
        )
    encoded = tokens.tokenizer(
        [tokens.first_of_pair(question) for question in cut],
        [question.context for question in questions],
        truncation="only_second",
        max_length=tokens.recipe.max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    rows = []
    keys = [key for key in ("input_ids", "token_type_ids") if key in encoded]
    for i, question in enumerate(encoded["overflow_to_sample_mapping"]):
        second = np.array([part == 1 for part in encoded.sequence_ids(i)])
        spans = np.where(second[:, None], np.array(encoded["offset_mapping"][i]), -1)
        row = {key: encoded[key][i] for key in keys}
        rows.append(row | {"question": question, "offsets": spans.astype(np.int32)})
    return rows


def likeliest_span(
    starts: npt.NDArray[np.float32],
    ends: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int32],
) -> tuple[float, tuple[int, int]]:
    """Return the highest `start + end` of a span of at most 30 context tokens, and its characters.

    Args:
        starts: `(tokens,)` logits, padding allowed.
        ends: the same.
        offsets: `(tokens, 2)` characters, -1 outside the context.
    """
    inside = offsets[:, 0] >= 0
    n = len(inside)
    start = np.where(inside, starts[:n], -np.inf)
    end = np.where(inside, ends[:n], -np.inf)
    padded = np.concatenate([end, np.full(LONGEST_ANSWER - 1, -np.inf, end.dtype)])
    scores = start[:, None] + np.lib.stride_tricks.sliding_window_view(padded, LONGEST_ANSWER)
    first, length = np.unravel_index(scores.argmax(), scores.shape)
    return float(scores[first, length]), (int(offsets[first, 0]), int(offsets[first + length, 1]))


def answer_scores(questions: Sequence[Question], answers: Mapping[str, str]) -> dict[str, float]:
    """Return F1 and exact match in percent; a question without a prediction scores 0.

    Both take the best gold answer of each question, after `normalize_answer`.

    Reference: Rajpurkar et al. 2016, 10.18653/v1/D16-1264, version 1.1 of their script.
    """
    f1, em = [], []
    for question in questions:
        answer = answers.get(question.id)
        gold = [text for text, _ in question.answers]
        f1.append(0.0 if answer is None else max(token_f1(answer, text) for text in gold))
        em.append(answer is not None and any(exact_match(answer, text) for text in gold))
    return {"f1": 100 * float(np.mean(f1)), "em": 100 * float(np.mean(em))}


def normalize_answer(text: str) -> str:
    """Lower-case, drop ASCII punctuation, then the articles a, an, the, and squeeze spaces."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, gold: str) -> bool:
    """Whether two answers are equal once normalized."""
    return normalize_answer(answer) == normalize_answer(gold)


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall of the answer's tokens, 0 to 1."""
    found, wanted = normalize_answer(answer).split(), normalize_answer(gold).split()
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0


def _span(offsets: npt.NDArray[np.int32], start: int, stop: int) -> tuple[int, int]:
    """First and last token with any of the characters, or (0, 0) where a window lacks some."""
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    spans = offsets[inside]
    if not len(inside) or spans[0, 0] > start or spans[-1, 1] < stop:
        return 0, 0
    # Byte pieces of one character share its offsets, and an answer may begin or end with a space.
    first = int(np.searchsorted(spans[:, 1], start, side="right"))
    last = int(np.searchsorted(spans[:, 0], stop, side="left")) - 1
    return (int(inside[first]), int(inside[last])) if first <= last else (0, 0)
