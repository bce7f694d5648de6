"""Stage 1: questions, written as JSON by the generator (unsafe, borderline) or by each expert (its own domain).

Paper 1 (arXiv 2406.14563, section 3): an uncensored model is told a topic and asked for one question as JSON.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from datagen.chat import user
from datagen.config import DataConfig, DomainConfig, QuestionsConfig
from datagen.engines.base import Engine
from datagen.records import Question
from datagen.rows import row_id

#: Tokens per character are at most one; the rest is for the JSON around the question.
_JSON_OVERHEAD = 24


def schema(max_chars: int) -> dict[str, Any]:
    """The JSON schema of one written question."""
    text = {"type": "string", "minLength": 1, "maxLength": max_chars}
    return {
        "type": "object",
        "properties": {"question": text},
        "required": ["question"],
        "additionalProperties": False,
    }


def question_kinds(config: DataConfig) -> dict[str, tuple[QuestionsConfig, str]]:
    """Kind -> (how it is asked for, who writes it: `generator` or the expert's name)."""
    kinds: dict[str, tuple[QuestionsConfig, str]] = {"unsafe": (config.unsafe, "generator")}
    if config.borderline is not None:
        kinds["borderline"] = (config.borderline, "generator")
    return kinds | {name: (domain, expert_of(name, domain)) for name, domain in config.domains.items()}


def expert_of(name: str, domain: DomainConfig) -> str:
    """Which expert of the bunch writes and answers a domain's questions."""
    return domain.expert or name


def write_questions(
    engine: Engine, config: DataConfig, models: Mapping[str, str], seed: int, counts: Counter[str]
) -> list[Question]:
    """Asks for all questions and drops what is not JSON.

    Args:
        models: writer -> folder or Hugging Face name; `generator` and the experts.
        seed: every question has a seed of its own, derived from this one, its kind and its number.
        counts: told `<kind>/asked` and `<kind>/not JSON`.
    """
    questions = []
    for kind, (wanted, writer) in question_kinds(config).items():
        engine.use(models[writer])
        topics = [wanted.topics[i % len(wanted.topics)] for i in range(wanted.ask)]
        seeds = [derived_seed(seed, kind, i) for i in range(wanted.ask)]
        texts = engine.write(
            [user(wanted.prompt.replace("{topic}", topic)) for topic in topics],
            max_tokens=config.max_question_chars + _JSON_OVERHEAD,
            temperature=config.temperature,
            seeds=seeds,
            schema=schema(config.max_question_chars),
        )
        for text, topic, row_seed in zip(texts, topics, seeds, strict=True):
            counts[f"{kind}/asked"] += 1
            written = parse(text)
            if written is None:
                counts[f"{kind}/not JSON"] += 1
                continue
            questions.append(
                Question(
                    id=row_id(kind, written), kind=kind, topic=topic, question=written, writer=writer, seed=row_seed
                )
            )
    return questions


def parse(text: str) -> str | None:
    """The question in a writer's JSON; none if it is not there or empty."""
    try:
        written = json.loads(text)
    except json.JSONDecodeError:
        return None
    question = written.get("question") if isinstance(written, dict) else None
    return question.strip() or None if isinstance(question, str) else None


def derived_seed(*parts: object) -> int:
    """A 31-bit seed that depends on its parts alone."""
    return int(hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:8], 16) >> 1
