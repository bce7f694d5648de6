"""What a config makes its models do: rows, conversations and tokens, counted before any of them is asked.

Numbers of conversations and of new tokens are upper bounds: nothing is dropped on the way, and every answer is as long
as it may be. Numbers of prompt tokens are estimates from characters.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from datagen.config import BunchConfig
from datagen.data_config import SAFETY_KINDS, DataConfig, VerdictConfig
from datagen.engines.base import VERDICT_AFTER, VERDICT_WITHIN
from datagen.pipeline import Inputs
from datagen.prompts import fill
from datagen.questions import JSON_OVERHEAD, Brief
from datagen.records import Question

#: Of English text; and tokens that a chat template adds to a conversation, that of a guard with its policy at most.
CHARS_PER_TOKEN, TEMPLATE, GUARD_TEMPLATE = 4, 32, 640


class Work(NamedTuple):
    """What one model is asked in one stage, as the journal keeps it in one file.

    Attributes:
        stage: name of the file.
        conversations: at most.
        prompt: tokens of all of them together, estimated.
        new: tokens of each answer at most.
    """

    stage: str
    model: str
    conversations: int
    prompt: float
    new: int


class Kind(NamedTuple):
    """Rows of one kind.

    Attributes:
        imported: with and without answers.
        kept: at most.
        splits: name -> about so many of those kept.
    """

    name: str
    asked: int
    imported: int
    kept: int
    splits: dict[str, int]


def kinds(data: DataConfig, inputs: Inputs) -> list[Kind]:
    """The rows of every kind."""
    rows = [*inputs.imported.questions, *inputs.imported.answered]
    shares = {"search": 1 - data.validation - data.test, "validation": data.validation, "test": data.test}
    found = []
    for name, wanted in data.kinds().items():
        imported = sum(row.kind == name for row in rows)
        kept = min(wanted.keep, wanted.ask + imported)
        splits = {split: round(kept * share) for split, share in shares.items()}
        found.append(Kind(name, wanted.ask, imported, kept, splits))
    return found


def works(
    bunch: BunchConfig, data: DataConfig, inputs: Inputs, templates: Mapping[str, int | None] | None = None
) -> list[Work]:
    """What every model is asked, in the pipeline's order.

    Args:
        templates: model -> characters of its chat template, which of a guard may hold a policy; none where not known.
    """
    models = bunch.models() | data.models()
    judged = _judged(bunch, data, inputs, templates or {})
    found = [*_written(data, inputs, models), *_answered(bunch, data, inputs), *judged]
    return [work for work in found if work.conversations]


def _written(data: DataConfig, inputs: Inputs, models: dict[str, str]) -> Iterator[Work]:
    """Questions, then their checks."""
    for brief in inputs.briefs:
        asked = len(brief.assignments)
        prompt = _tokens(sum(map(len, _prompts(brief)))) + asked * TEMPLATE
        new = data.max_question_chars + JSON_OVERHEAD
        yield Work(f"questions/{brief.kind}", models[brief.writer], asked, prompt, new)
    for brief in inputs.briefs:
        if (check := brief.config.check) is not None:
            asked = len(brief.assignments)
            prompt = asked * (_tokens(len(check.prompt) + data.max_question_chars) + TEMPLATE)
            model = check.model or models[brief.writer]
            yield Work(f"checks/{brief.kind}", model, asked, prompt, _verdict_tokens(check))


def _answered(bunch: BunchConfig, data: DataConfig, inputs: Inputs) -> Iterator[Work]:
    for name, model in bunch.answering().items():
        own = [kind for kind in data.kinds() if data.expert(kind) in (None, name)]
        asked, chars = _questions(data, inputs, own)
        yield Work(f"answers/{name}", model, asked, _tokens(chars) + asked * TEMPLATE, data.max_answer_tokens)


def _judged(
    bunch: BunchConfig, data: DataConfig, inputs: Inputs, templates: Mapping[str, int | None]
) -> Iterator[Work]:
    """The guard reads every answer to an unsafe or borderline question, the judge only those that are kept."""
    asked, chars = _questions(data, inputs, SAFETY_KINDS)
    asked, chars = asked * len(bunch.answering()), chars * len(bunch.answering())
    answered = [one for one in inputs.imported.answered if one.kind in SAFETY_KINDS]
    count = asked + sum(len(one.answers) for one in answered)
    chars += sum(_chars(one) + len(said) for one in answered for said in one.answers.values())
    told = _tokens(chars) + asked * data.max_answer_tokens
    yield _verdicts("verdicts", data.guard, count, told, templates)
    if (refusal := data.refusal) is not None:
        named = refusal.model_copy(update={"model": refusal.model or data.guard.model})
        yield _verdicts("refusals", named, count, told, templates)
    if data.judge is not None:
        kept = sum(kind.kept for kind in kinds(data, inputs) if kind.name in SAFETY_KINDS)
        told = kept * (_tokens(data.max_question_chars) + data.max_answer_tokens)
        yield _verdicts("judge", data.judge, kept, told, templates)


def _verdicts(stage: str, judge: VerdictConfig, count: int, told: float, templates: Mapping[str, int | None]) -> Work:
    own = GUARD_TEMPLATE
    if judge.prompt:
        own = TEMPLATE + round(_tokens(len(judge.prompt)))
    elif (chars := templates.get(judge.model)) is not None:
        own = min(own, TEMPLATE + round(_tokens(chars)))
    return Work(stage, judge.model, count, told + count * own, _verdict_tokens(judge))


def _verdict_tokens(judge: VerdictConfig) -> int:
    """Who does not say the verdict at once is asked for a few tokens more."""
    return VERDICT_AFTER if judge.after else 1 + VERDICT_WITHIN


def _questions(data: DataConfig, inputs: Inputs, wanted: Sequence[str]) -> tuple[int, int]:
    """How many questions of some kinds are put to a model, and their characters at most."""
    imported = [one for one in inputs.imported.questions if one.kind in wanted]
    written = sum(len(brief.assignments) for brief in inputs.briefs if brief.kind in wanted)
    return written + len(imported), written * data.max_question_chars + sum(map(_chars, imported))


def _prompts(brief: Brief) -> Iterator[str]:
    """What the writer is told, with examples of mean length."""
    mean = sum(map(len, brief.examples)) // len(brief.examples) if brief.examples else 0
    shown = "\n".join(['{"question": "' + "x" * mean + '"}'] * brief.config.shots)
    for one in brief.assignments:
        values = {"topic": one.topic.name, "about": one.topic.about, **one.attributes, "examples": shown}
        yield fill(brief.config.prompt, values)


def _chars(question: Question) -> int:
    return sum(len(turn["content"]) for turn in question.conversation)


def _tokens(chars: float) -> float:
    return chars / CHARS_PER_TOKEN
