"""Stage 1: questions, written as JSON by the generator (unsafe, borderline) or by each expert (its own domain).

Paper 1 (arXiv 2406.14563, section 3): an uncensored model is told a topic and asked for one question as JSON; an expert
is shown three questions of a validation set, without their answers, and asked for another.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datagen.attributes import Assignment, assign, load_attributes
from datagen.chat import user
from datagen.data_config import DataConfig, QuestionsConfig
from datagen.errors import ConfigError
from datagen.importing import import_file
from datagen.journal import Journal
from datagen.prompts import check_prompt, fill, placeholders
from datagen.records import Question
from datagen.topics import load_topics

#: What prompts may name besides attributes.
_OWN = ("topic", "about", "examples", "question")

#: Tokens per character are at most one; the rest is for the JSON around the question.
JSON_OVERHEAD = 24


class Brief(NamedTuple):
    """What is wanted of one kind.

    Attributes:
        writer: `generator`, or the expert's name.
        assignments: topic and attributes of every question.
        examples: some of them are shown with every prompt.
    """

    kind: str
    writer: str
    config: QuestionsConfig
    assignments: Sequence[Assignment]
    examples: Sequence[str]


class Written(NamedTuple):
    """Questions, and by their id the examples that their writer was shown."""

    questions: list[Question]
    shown: dict[str, list[str]]


def open_briefs(config: DataConfig, seed: int) -> list[Brief]:
    """Reads what the config names: topics, attributes, examples.

    Args:
        seed: of who gets what.

    Raises:
        ConfigError: a list is not there, or a prompt and its attributes do not fit.
        DataError: the examples cannot be read.
    """
    return [_brief(kind, wanted, config, seed) for kind, wanted in config.kinds().items()]


def _brief(kind: str, wanted: QuestionsConfig, config: DataConfig, seed: int) -> Brief:
    where = f"data.{kind}" if kind not in config.domains else f"data.domains.{kind}"
    topics = load_topics(wanted.topics)
    attributes = load_attributes(wanted.attributes) if wanted.attributes else {}
    if odd := sorted(name for name in attributes if name in _OWN or not placeholders(f"{{{name}}}")):
        raise ConfigError(
            f"{where}: an attribute's name must be small letters, digits and _, and none of {', '.join(_OWN)}, but one "
            f"is {odd[0]!r}; rename it"
        )
    if unused := sorted({*attributes} - placeholders(wanted.prompt)):
        raise ConfigError(
            f"{where}: a prompt must name every attribute, but has no {{{unused[0]}}}; add it, or drop the attribute"
        )
    check_prompt(where, wanted.prompt, ["topic", "about", "examples", *attributes])
    if wanted.check is not None:
        check_prompt(f"{where}.check", wanted.check.prompt, ["question", "topic", "about", *attributes], "question")
    examples = _examples(Path(wanted.examples), kind) if wanted.examples else []
    if examples and len(examples) < wanted.shots:
        raise ConfigError(
            f"{where}: there must be as many examples as are shown at a time, but {wanted.examples} has "
            f"{len(examples)} of {wanted.shots}; lower shots"
        )
    writer = config.expert(kind) or "generator"
    return Brief(kind, writer, wanted, assign(topics, attributes, wanted.ask, seed), examples)


def _examples(path: Path, kind: str) -> list[str]:
    found = import_file(path, kind=kind)
    return [question.question for question in (*found.questions, *found.answered)]


def write_questions(
    journal: Journal,
    briefs: Sequence[Brief],
    models: Mapping[str, str],
    config: DataConfig,
    seed: int,
    counts: Counter[str],
) -> Written:
    """Asks for all questions and drops what is not JSON.

    Args:
        models: writer -> model.
        seed: every question has a seed of its own, derived from this one, its kind and its number.
        counts: told `<kind>/asked` and `<kind>/not JSON`.
    """
    written = Written([], {})
    for brief in briefs:
        numbers = range(len(brief.assignments))
        shown = [_shown(brief, seed, i) for i in numbers]
        prompts = [
            fill(brief.config.prompt, _values(one) | {"examples": "\n".join(map(_as_json, some))})
            for one, some in zip(brief.assignments, shown, strict=True)
        ]
        seeds = [derived_seed(seed, brief.kind, i) for i in numbers]
        texts = journal.write(
            f"questions/{brief.kind}",
            models[brief.writer],
            [user(prompt) for prompt in prompts],
            max_tokens=config.max_question_chars + JSON_OVERHEAD,
            temperature=config.temperature,
            seeds=seeds,
            schema=schema(config.max_question_chars),
        )
        counts[f"{brief.kind}/asked"] += len(texts)
        for i, text in enumerate(texts):
            told = parse(text)
            if told is None:
                counts[f"{brief.kind}/not JSON"] += 1
                continue
            question = Question.of(
                brief.kind,
                told,
                topic=brief.assignments[i].topic.name,
                attributes=brief.assignments[i].attributes,
                writer=brief.writer,
                prompt_hash=hashlib.sha256(prompts[i].encode()).hexdigest()[:16],
                seed=seeds[i],
            )
            written.questions.append(question)
            written.shown.setdefault(question.id, []).extend(shown[i])
    return written


def schema(max_chars: int) -> dict[str, Any]:
    """The JSON schema of one written question."""
    text = {"type": "string", "minLength": 1, "maxLength": max_chars}
    return {
        "type": "object",
        "properties": {"question": text},
        "required": ["question"],
        "additionalProperties": False,
    }


def parse(text: str) -> str | None:
    """The question in a writer's JSON; none if it is not there, empty, or no Unicode."""
    try:
        written = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    question = written.get("question") if isinstance(written, dict) else None
    if not isinstance(question, str) or any("\ud800" <= letter <= "\udfff" for letter in question):
        return None
    return question.strip() or None


def derived_seed(*parts: object) -> int:
    """A 31-bit seed that depends on its parts alone."""
    return int(hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:8], 16) >> 1


def _values(assignment: Assignment) -> dict[str, str]:
    return {"topic": assignment.topic.name, "about": assignment.topic.about, **assignment.attributes}


def _shown(brief: Brief, seed: int, number: int) -> list[str]:
    if not brief.examples:
        return []
    return random.Random(f"{seed}-{brief.kind}-{number}-examples").sample(brief.examples, brief.config.shots)


def _as_json(question: str) -> str:
    return json.dumps({"question": question}, ensure_ascii=False)
