"""What an engine said, kept as it says it: a run that was killed asks only what it had not been told.

One file per stage and model. Every line holds the hash of all that its answer depends on, so whatever changes, in a
config or in a stage before, exactly the answers that depend on it are asked for again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from datagen.chat import Message
from datagen.engines.base import Engine
from datagen.files import named_on_failure
from datagen.progress import Bar

Said = TypeVar("Said", str, float | None)


class Journal:
    """An engine that remembers.

    Args:
        engine: asked what is not in the journal.
        folder: of the journal's files.
        chunk: answers that are asked for, and then kept, together.
        drawing: what decides a draw besides the prompt and its seed, such as the kind of engine.
    """

    def __init__(self, engine: Engine, folder: Path, chunk: int, drawing: str) -> None:
        self.folder = folder
        self._engine, self._chunk, self._drawing = engine, chunk, drawing
        self._identities: dict[str, str] = {}

    def identity(self, model: str) -> str:
        """The engine's, asked for once."""
        if model not in self._identities:
            self._identities[model] = self._engine.identity(model)
        return self._identities[model]

    def write(
        self,
        name: str,
        model: str,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """A model's answers, as `Engine.write` gives them.

        Args:
            name: of the journal's file, such as `answers/base`.
        """
        settings = [max_tokens, temperature, schema]
        keys = [
            self._key(model, conversation, settings, seeds[i] if seeds else None)
            for i, conversation in enumerate(conversations)
        ]

        def ask(start: int, end: int) -> list[str]:
            return self._engine.write(
                conversations[start:end],
                max_tokens=max_tokens,
                temperature=temperature,
                seeds=seeds[start:end] if seeds else None,
                schema=schema,
            )

        return self._resumed(name, model, conversations, keys, ask)

    def probability(
        self, name: str, model: str, conversations: Sequence[Sequence[Message]], word: str, other: str, after: str = ""
    ) -> list[float | None]:
        """How likely a model says one word rather than another, as `Engine.probability` gives it."""
        keys = [self._key(model, conversation, [word, other, after], None) for conversation in conversations]

        def ask(start: int, end: int) -> list[float | None]:
            return self._engine.probability(conversations[start:end], word, other, after)

        return self._resumed(name, model, conversations, keys, ask)

    def _key(self, model: str, conversation: Sequence[Message], settings: Any, seed: int | None) -> str:
        decided = [self.identity(model), self._drawing, list(conversation), settings, seed]
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:24]

    def _resumed(
        self,
        name: str,
        model: str,
        conversations: Sequence[Sequence[Message]],
        keys: Sequence[str],
        ask: Callable[[int, int], list[Said]],
    ) -> list[Said]:
        """What is known, then the rest chunk by chunk."""
        path = self.folder / f"{name}.jsonl"
        known, size = self._known(path, keys)
        if len(known) == len(keys):
            return known
        self._engine.use(model)
        with named_on_failure(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file, Bar(name, len(keys)) as bar:
                file.truncate(size)
                bar.advance(count=len(known))
                for start in range(len(known), len(keys), self._chunk):
                    end = min(start + self._chunk, len(keys))
                    said = ask(start, end)
                    lines = [
                        {"key": key, "asked": conversation[-1]["content"], "said": one}
                        for key, conversation, one in zip(keys[start:end], conversations[start:end], said, strict=True)
                    ]
                    file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
                    file.flush()
                    os.fsync(file.fileno())
                    known += said
                    bar.advance(count=end - start)
        return known

    def _known(self, path: Path, keys: Sequence[str]) -> tuple[list[Any], int]:
        """Answers to the first questions that are there and still hold, and the bytes that they take.

        Only whole chunks count, so that what is asked beside what does not depend on where a run was killed: on some
        machines the company of a prompt moves the last bits of its probabilities.
        """
        if not path.is_file():
            return [], 0
        said: list[Any] = []
        ends = [0]
        with path.open("rb") as file:
            for key, line in zip(keys, file, strict=False):
                try:
                    told = json.loads(line)
                    if told["key"] != key or not line.endswith(b"\n"):
                        break
                    said.append(told["said"])
                except (ValueError, KeyError, TypeError):
                    break
                ends.append(ends[-1] + len(line))
        count = len(said) if len(said) == len(keys) else len(said) - len(said) % self._chunk
        return said[:count], ends[count]
