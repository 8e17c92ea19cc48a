"""Questions with answers in a paragraph, as SQuAD 1.1 has them.

Owns the check that every answer stands where it says.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bertft.corpora import read_text
from bertft.corpora.hub import Record, records
from bertft.quiet import first_line

VERSION = "1.1"


@dataclass(frozen=True)
class Question:
    """A question on a paragraph.

    Attributes:
        id: its name, different for each question.
        question: its text.
        context: the paragraph.
        answers: the text of each answer and where it starts in `context`, in characters.
    """

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Questions:
    """Questions in file order, and how many were left out because of their answers."""

    questions: list[Question]
    skipped: int


def read(path: Path) -> Iterator[Record]:
    """Yield the questions of a SQuAD 1.1 file with their contexts, whatever their answers.

    Raises:
        ValueError: no SQuAD JSON, or that of another version.
    """
    remedy = "convert it to 1.1, or its questions and contexts to JSON lines"
    return _from_file(path, remedy)


def read_questions(path: str | os.PathLike[str], *, skip_bad: bool = False) -> Questions:
    """Read the questions of a SQuAD 1.1 file or a data set.

    Args:
        path: a JSON file, or a data set as in "rajpurkar/squad:train".
        skip_bad: leave out, and count, questions without an answer and those with an answer that
            is not where it says, instead of raising.

    Raises:
        FileNotFoundError: no such file or data set.
        ValueError: another version, no question, a missing field, a duplicate id, a question
            without an answer or with one that is not at its offset (with the id).
    """
    questions: list[Question] = []
    seen: set[str] = set()
    skipped = 0
    remedy = None if skip_bad else "convert it, or pass skip_bad (--skip-bad)"
    for record in records(path, lambda file: _from_file(file, remedy)):
        question, fault = _question(record)
        if question.id in seen:
            raise ValueError(
                f"[corpora] {record.where} must have an id of its own, got {question.id!r} again; "
                "pass each question once."
            )
        seen.add(question.id)
        if fault and not skip_bad:
            raise ValueError(
                f"[corpora] {record.where} (id {question.id!r}) must have its answers in the "
                f"context, got {fault}; mend it, or pass skip_bad (--skip-bad) to leave such "
                "questions out."
            )
        if fault:
            skipped += 1
        else:
            questions.append(question)
    if not questions:
        raise ValueError(
            f"[corpora] {os.fspath(path)} must hold at least one question with its answer, got "
            f"none and {skipped} left out; pass another file or split."
        )
    return Questions(questions, skipped)


def _question(record: Record) -> tuple[Question, str]:
    """The question, and what is wrong with its answers or ""."""
    name = record.text("id")
    record = replace(record, where=f"{record.where} (id {name!r})")
    context, answers = record.text("context"), _answers(record)
    question = Question(name, record.text("question"), context, answers)
    if not answers or record.fields.get("is_impossible"):
        return question, "none, as SQuAD 2.0 has for questions that are impossible to answer"
    for text, start in answers:
        found = context[start : start + len(text)] if start >= 0 else ""
        if not text or found != text:
            return question, f"{text!r} at character {start}, where {found!r} stands"
    return question, ""


def _answers(record: Record) -> tuple[tuple[str, int], ...]:
    found: Any = record.fields.get("answers")
    try:
        # The hub has a list for each of the two, files have an object for each answer.
        if isinstance(found, Mapping):
            answers = tuple(zip(found["text"], found["answer_start"], strict=True))
        else:
            answers = tuple((answer["text"], answer["answer_start"]) for answer in found)
    except (KeyError, TypeError, ValueError):
        answers = ((None, None),)
    if not all(isinstance(text, str) and type(start) is int for text, start in answers):
        raise ValueError(
            f"[corpora] {record.where} must have 'answers' with a string 'text' and an integer "
            f"'answer_start' each, got {found!r:.60}; mend it."
        )
    return answers


def _from_file(path: Path, remedy: str | None) -> Iterator[Record]:
    """The questions of a file; one of another version is refused where there is a remedy."""
    text = read_text(path)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"[corpora] {path}, line {error.lineno} must be JSON, got "
            f"{text[error.pos : error.pos + 40]!r} ({error.msg}); mend the file, or name it .jsonl "
            "if it has an object on each line."
        ) from error
    except (ValueError, RecursionError) as error:  # numbers and nesting have limits too
        raise ValueError(
            f"[corpora] {path} must be JSON, got {text[:40]!r} ({first_line(error)}); mend the "
            "file."
        ) from error
    number = 0
    articles = _items(path, document, "data")
    version = str(document.get("version", VERSION))
    if remedy is not None and version.removeprefix("v").split(".")[0] != VERSION.split(".")[0]:
        raise ValueError(
            f"[corpora] {path} must be SQuAD {VERSION}, got version {version!r}, whose questions "
            f"need not have answers; {remedy}."
        )
    for article in articles:
        for paragraph in _items(path, article, "paragraphs"):
            context = {key: paragraph[key] for key in ("context",) if key in paragraph}
            for question in _items(path, paragraph, "qas"):
                number += 1
                yield Record(f"{path}, question {number}", number, question | context)


def _items(path: Path, parent: Any, name: str) -> list[dict[str, Any]]:
    """The objects in a list of SQuAD's nesting."""
    items = parent.get(name) if isinstance(parent, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        found = sorted(parent) if isinstance(parent, dict) else type(parent).__name__
        raise ValueError(
            f"[corpora] {path} must be SQuAD JSON, data > paragraphs > qas, got no list of objects "
            f"{name!r} in {found}; convert it, texts and pairs to JSON lines (.jsonl)."
        )
    return items
