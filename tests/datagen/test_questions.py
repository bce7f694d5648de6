"""Questions as they are asked for, on values checked by hand."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datagen.chat import user
from datagen.checking import check_questions
from datagen.data_config import DataConfig
from datagen.engines.base import Candidates
from datagen.errors import ConfigError, DataError
from datagen.journal import Journal
from datagen.prompts import check_prompt, fill, placeholders
from datagen.questions import Written, derived_seed, open_briefs, parse, schema, write_questions
from tests.datagen.engines.scripted import Conversation, Scripted

PROMPT = 'one {style} question about {topic} ({about}) as {"question": ...} like\n{examples}'
TOPICS = [{"name": "towers", "about": "tall ones"}, {"name": "harbours"}]
UNSAFE = {"prompt": PROMPT, "topics": TOPICS, "attributes": {"style": ["plain", "long"]}, "ask": 6, "keep": 9}
NUMBERS = {"prompt": "about {topic}", "topics": ["sums"], "ask": 2, "keep": 2}
MODELS = {"generator": "g", "numbers": "n"}


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(f'{{"question": "example {i}", "answer": "not shown"}}\n' for i in range(9)))
    return path


def config(file: Path, /, **unsafe: Any) -> DataConfig:
    wanted = UNSAFE | {"examples": str(file)} | unsafe
    return DataConfig.model_validate(
        {
            "generator": "g",
            "guard": {"model": "j"},
            "unsafe": {key: value for key, value in wanted.items() if value is not None},
            "domains": {"numbers": NUMBERS},
        }
    )


def numbered(model: str, asked: Conversation) -> str:
    return json.dumps({"question": f"{model} {hashlib.sha256(asked[0]['content'].encode()).hexdigest()}"})


def written(folder: Path, engine: Scripted, config: DataConfig, seed: int = 0) -> tuple[Written, Counter[str]]:
    counts: Counter[str] = Counter()
    journal = Journal([engine], folder / "stages", 100, "")
    return write_questions(journal, open_briefs(config, seed), MODELS, config, seed, counts), counts


@pytest.mark.parametrize(
    ("prompt", "names", "filled"),
    [
        ("about {topic} !", {"topic"}, "about a{topic}b !"),
        ('{"question": "{other_2}"}', {"other_2"}, '{"question": "{topic}"}'),
        ("{ topic } {Topic} {} {2} {unknown}", {"unknown"}, "{ topic } {Topic} {} {2} {unknown}"),
        ("{topic}{topic}", {"topic"}, "a{topic}ba{topic}b"),
    ],
)
def test_placeholders(prompt: str, names: set[str], filled: str) -> None:
    assert placeholders(prompt) == names
    assert fill(prompt, {"topic": "a{topic}b", "other_2": "{topic}"}) == filled


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ('{"question": " why ? "}', "why ?"),
        ('{"question": ""}', None),
        ('{"question": 3}', None),
        ('{"query": "why ?"}', None),
        ('["why ?"]', None),
        ('{"question": "cut', None),
        ('{"question": "half \\ud800"}', None),
        ("[" * 100_000, None),
        ("", None),
    ],
)
def test_parse(text: str, question: str | None) -> None:
    assert parse(text) == question


def test_derived_seeds_are_those_of_every_run() -> None:
    assert derived_seed(0, "unsafe", 1) == derived_seed(0, "unsafe", 1) != derived_seed(0, "unsafe", 2)
    assert 0 <= derived_seed("x") < 2**31


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "{topic} {examples}"}, "data.unsafe: a prompt must name every attribute, but has no {style}"),
        ({"prompt": PROMPT + "{stile}"}, "data.unsafe: a prompt may name .*style, but names {stile}"),
        ({"prompt": PROMPT + "{question}"}, "data.unsafe: a prompt may name .* but names {question}"),
        ({"check": {"prompt": "{question} {stile}"}}, "data.unsafe.check: a prompt may name .* but names {stile}"),
        ({"check": {"prompt": "{question} {examples}"}}, "data.unsafe.check: .* but names {examples}"),
        ({"check": {"prompt": "about {topic} ?"}}, "data.unsafe.check: a prompt must show .* but has no {question}"),
        ({"attributes": {"topic": ["a"]}}, "data.unsafe: an attribute's name must be .* but one is 'topic'; rename it"),
        ({"attributes": {"Style": ["a"]}}, "data.unsafe: an attribute's name must be small letters, .* is 'Style'"),
        ({"shots": 10}, r"there must be as many examples as are shown at a time, but .* has 9 of 10; lower shots"),
        ({"topics": "tower"}, "topics: no list is named 'tower'"),
        ({"topics": "none.yaml"}, r"none\.yaml: must be a readable file"),
        ({"attributes": "none.yaml"}, r"none\.yaml: must be a readable file"),
    ],
)
def test_what_does_not_fit_is_told_before_any_work(examples: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as told:
        open_briefs(config(examples, **changes), 0)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "{topic} {style}"}, "but only `examples` is there"),
        ({"examples": None}, "but only {examples} is there"),
    ],
)
def test_examples_and_their_place_come_together(examples: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(examples, **changes)


def test_examples_that_are_not_there(examples: Path) -> None:
    with pytest.raises(DataError, match="there must be a file to import"):
        open_briefs(config(examples, examples="/none.jsonl"), 0)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("is {answer} to {question} {bad} ?", "data.guard: a prompt may name question, answer, but names {bad}"),
        ("is {question} so ?", "data.guard: a prompt must show what it asks about, but has no {answer}"),
    ],
)
def test_a_judges_prompt(prompt: str, said: str) -> None:
    check_prompt("data.guard", 'is {answer} ? say {"a": 1}', ["question", "answer"], "answer")
    with pytest.raises(ConfigError, match=said):
        check_prompt("data.guard", prompt, ["question", "answer"], "answer")


def test_prompts_show_examples_topic_and_attributes(tmp_path: Path, examples: Path) -> None:
    engine = Scripted(numbered)
    some, counts = written(tmp_path, engine, config(examples))
    prompts = engine.last_turns[0]
    assert [len(call) for call in engine.last_turns] == [6, 2]
    for prompt, question in zip(prompts, some.questions, strict=False):
        first, *shown = prompt.splitlines()
        about = {"towers": "tall ones", "harbours": ""}[question.topic]
        style = question.attributes["style"]
        assert first == f'one {style} question about {question.topic} ({about}) as {{"question": ...}} like'
        told = [json.loads(line)["question"] for line in shown]
        assert len(set(told)) == 3
        assert set(told) <= {f"example {i}" for i in range(9)}
        assert some.shown[question.id] == told
        assert question.prompt_hash == hashlib.sha256(prompt.encode()).hexdigest()[:16]
    assert Counter(question.topic for question in some.questions) == {"towers": 3, "harbours": 3, "sums": 2}
    assert [question.seed for question in some.questions[:6]] == [derived_seed(0, "unsafe", i) for i in range(6)]
    assert engine.settings[0]["seeds"] == [question.seed for question in some.questions[:6]]
    assert engine.settings[0]["schema"] == schema(400)
    assert [question.writer for question in some.questions] == ["generator"] * 6 + ["numbers"] * 2
    assert counts == {"unsafe/asked": 6, "numbers/asked": 2}


def test_examples_are_drawn_by_the_seed(tmp_path: Path, examples: Path) -> None:
    prompts = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        engine = Scripted(numbered)
        written(tmp_path / folder, engine, config(examples), seed)
        prompts.append(engine.last_turns[0])
    assert prompts[0] == prompts[1] != prompts[2]
    assert len({tuple(prompt.splitlines()[1:]) for prompt in prompts[0]}) > 1


def test_what_is_no_json_is_counted(tmp_path: Path, examples: Path) -> None:
    engine = Scripted(lambda model, asked: "cut" if "long" in asked[0]["content"] else numbered(model, asked))
    some, counts = written(tmp_path, engine, config(examples))
    assert counts == {"unsafe/asked": 6, "unsafe/not JSON": 3, "numbers/asked": 2}
    assert [question.attributes for question in some.questions] == [{"style": "plain"}] * 3 + [{}] * 2
    seeds = dict(zip(engine.settings[0]["seeds"], engine.last_turns[0], strict=True))
    assert all(question.attributes["style"] in seeds[question.seed] for question in some.questions[:3])


def test_a_question_is_checked_against_its_brief(tmp_path: Path, examples: Path) -> None:
    check = {"prompt": "is {question} a {style} one about {topic} ({about}) ?", "threshold": 0.9}
    settings = config(examples, check=check)
    some, counts = written(tmp_path, Scripted(numbered), settings)

    def hear(model: str, asked: Conversation) -> list[Candidates]:
        if "harbours" in asked[0]["content"]:
            return []
        # exp(-0.1) / (exp(-0.1) + exp(-3)) = 0.948, and 0.891 with -2.2.
        return [[("yes", -0.1), ("no", -3.0 if "plain" in asked[0]["content"] else -2.2)]]

    engine = Scripted(hear=hear)
    journal = Journal([engine], tmp_path / "stages", 100, "")
    left = check_questions(journal, open_briefs(settings, 0), MODELS, some.questions, counts)
    assert engine.model == "g", "by default the writer is asked"
    assert engine.asked[0] == [
        user(f"is {q.question} a {q.attributes['style']} one about {q.topic} ({'tall ones' * (q.topic == 'towers')}) ?")
        for q in some.questions[:6]
    ]
    fit = [q for q in some.questions[:6] if q.topic == "towers" and q.attributes["style"] == "plain"]
    assert left == [*fit, *some.questions[6:]]
    assert counts["unsafe/no self-check verdict"] == 3
    assert counts["unsafe/misses its brief"] == 3 - len(fit)
    assert 1 <= len(fit) <= 2
