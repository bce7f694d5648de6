"""Data from elsewhere: questions to be answered, and questions with answers to be judged, like those made here.

Read are our own rows and records, `{messages}`, `{prompt, response, type}` and `{input, output}`, one JSON object a
line; which it is is told by its keys, so that a file may hold several. Keys that say nothing to us are left out.

`alternatives` are other answers, which no one is to learn. A multiple choice has its options in `choices`, as a list or
as ARC's `{text, label}`, and its right answer as one of them, by its label (A, B, ... in a list) or by its number from
0, as MMLU has it, under the key for answers or ARC's `answerKey`; the other options become alternatives.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from datagen.chat import Message
from datagen.errors import DataError
from datagen.reading import UnfitError, parse_json
from datagen.records import Answered, Question

#: Who answered where a file does not say.
IMPORTED = "imported"

#: Question key -> answer key, of rows of one question and one answer; the first that is there counts.
_PAIRS = {"prompt": "response", "instruction": "output", "input": "output", "question": "answer"}

_ROLES = ("system", "user", "assistant", "tool")

_SHAPES = "`messages`, `prompt` and `response`, `input` and `output`, or `question` with `answer` or `answers`"


@dataclass(frozen=True)
class Imported:
    """What a file held, by the stage at which it joins.

    Attributes:
        questions: still to be answered.
        answered: still to be judged.
    """

    questions: list[Question] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)


def import_file(
    path: Path, kind: str = "", kinds: Collection[str] = (), rename: Mapping[str, str] | None = None
) -> Imported:
    """Reads a JSONL file of any of the known shapes.

    Args:
        kind: of rows that do not say theirs by `kind` or `type`.
        kinds: those that are allowed; by default all.
        rename: kind in the file -> kind here.

    Raises:
        DataError: the file is missing, or a line cannot be read; the message names the first such line.
    """
    if not path.is_file():
        raise DataError(f"{path}: there must be a file to import, but there is none; check the path")
    found = Imported()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                _Line(f"{path}:{number}", path.name, kind, kinds, rename or {}).read(line, found)
    return found


@dataclass(frozen=True)
class _Line:
    where: str
    file: str
    kind: str
    kinds: Collection[str]
    rename: Mapping[str, str]

    def read(self, line: bytes, found: Imported) -> None:
        """Adds what a line holds to where it belongs."""
        try:
            value = parse_json(line)
        except UnfitError as error:
            raise DataError(f"{self.where}: must be one JSON object in UTF-8: it {error}") from error
        if not isinstance(value, dict):
            raise self._wrong("must be one JSON object", f"is a {type(value).__name__}")
        try:
            self._sort(value, found)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise self._wrong("must be a row", f"{where}: {first['msg']}") from error

    def _sort(self, value: Mapping[str, Any], found: Imported) -> None:
        if "messages" in value:
            self._conversation(value, found)
        elif isinstance(value.get("answers"), dict) and "question" in value:
            question = self._question(value, self._text(value, "question"))
            answers = {name: self._text(value["answers"], name, empty=True) for name in value["answers"]}
            alternatives = self._texts(value, "alternatives")
            found.answered.append(Answered(**question.model_dump(), answers=answers, alternatives=alternatives))
        elif asked := next((key for key in _PAIRS if value.get(key) is not None), None):
            text = self._text(value, asked)
            if asked == "instruction" and value.get("input"):
                # Alpaca's files have the task here and what it is about in `input`.
                text = f"{text}\n\n{self._text(value, 'input')}"
            self._add(found, value, text, self._answer(value, _PAIRS[asked]))
        else:
            raise self._wrong(f"must have {_SHAPES}", f"has {', '.join(map(repr, value)) or 'no keys'}")

    def _conversation(self, value: Mapping[str, Any], found: Imported) -> None:
        turns = value["messages"]
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise self._wrong("`messages` must be a list of {role, content}", f"is {str(turns)[:40]!r}")
        messages = [Message(role=self._text(turn, "role"), content=self._text(turn, "content")) for turn in turns]
        roles = [turn["role"] for turn in messages]
        if unknown := [role for role in roles if role not in _ROLES]:
            raise self._wrong(f"a role must be one of {', '.join(_ROLES)}", f"is {unknown[0]!r}")
        if value.get("split") == "test":
            raise self._wrong(
                "a row that joins the data must not be held out",
                "its split is 'test'; leave it out, or name the file under cleaning.overlap.files",
            )
        answer = messages.pop()["content"] if roles[-1:] == ["assistant"] else None
        if not messages or messages[-1]["role"] != "user":
            raise self._wrong(
                "`messages` must end with a user's turn, or a user's and an assistant's",
                f"has {', '.join(roles) or 'none'}",
            )
        self._add(found, value, messages[-1]["content"], answer, context=messages[:-1])

    def _add(
        self, found: Imported, value: Mapping[str, Any], text: str, answer: str | None, context: Sequence[Message] = ()
    ) -> None:
        question = self._question(value, text, context)
        if answer is None:
            found.questions.append(question)
        else:
            model = str(value.get("model") or IMPORTED)
            options = [*self._choices(value).values()]
            if options and answer not in options:
                raise self._wrong("the answer must be one of the choices", f"is {answer[:40]!r}")
            others = [*self._texts(value, "alternatives"), *options]
            alternatives = [text for text in dict.fromkeys(others) if text != answer]
            found.answered.append(Answered(**question.model_dump(), answers={model: answer}, alternatives=alternatives))

    def _answer(self, value: Mapping[str, Any], key: str) -> str | None:
        """The right answer; of a multiple choice the option that is meant."""
        choices = self._choices(value)
        if choices and value.get(key) is None:
            key = "answerKey"
        told = value.get(key)
        if told is None:
            return None
        options = list(choices.values())
        if options and type(told) is int and 0 <= told < len(options):
            return options[told]
        text = self._text(value, key)
        if not options or text in options:
            return text
        if text not in choices:
            raise self._wrong(f"`{key}` must be one of the choices, its label, or its number from 0", f"is {text!r}")
        return choices[text]

    def _choices(self, value: Mapping[str, Any]) -> dict[str, str]:
        """Label -> option of a multiple choice; empty if it is none."""
        told = value.get("choices")
        if isinstance(told, dict):
            options, labels = self._texts(told, "text"), self._texts(told, "label")
            if len(labels) != len(options):
                raise self._wrong("`choices` must have a label for each text", f"has {len(labels)} for {len(options)}")
        else:
            options = self._texts(value, "choices")
            labels = [chr(ord("A") + i) for i in range(len(options))]
        return dict(zip(labels, options, strict=True))

    def _question(self, value: Mapping[str, Any], text: str, context: Sequence[Message] = ()) -> Question:
        told = value.get("attributes")
        return Question.of(
            self._kind(value),
            text,
            context=context,
            topic=self._topic(value),
            attributes=told if isinstance(told, dict) else {},
            writer=f"import:{self.file}",
            seed=value.get("seed", 0),
        )

    def _topic(self, value: Mapping[str, Any]) -> str:
        told = value.get("topic") or value.get("category") or ""
        return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)

    def _kind(self, value: Mapping[str, Any]) -> str:
        told = value.get("kind") or value.get("type") or self.kind
        if not isinstance(told, str) or not told:
            raise self._wrong("must say its kind by `kind` or `type`", f"has {told!r}; or name one for the whole file")
        kind = self.rename.get(told, told)
        if self.kinds and kind not in self.kinds:
            raise self._wrong(f"the kind must be one of {', '.join(self.kinds)}", f"is {kind!r}; rename it")
        return kind

    def _texts(self, value: Mapping[str, Any], key: str) -> list[str]:
        told = value.get(key)
        if not isinstance(told, list | None):
            raise self._wrong(f"`{key}` must be a list of texts", f"is {str(told)[:40]!r}")
        return [self._text({key: text}, key) for text in told or ()]

    def _text(self, value: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
        text = value.get(key)
        if not isinstance(text, str) or not (text.strip() or empty):
            raise self._wrong(f"`{key}` must be a text", f"is {str(text)[:40]!r}" if key in value else "is missing")
        return text

    def _wrong(self, rule: str, found: str) -> DataError:
        return DataError(f"{self.where}: {rule}, but {found}")
