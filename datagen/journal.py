"""What an engine said, kept as it says it: a run that was killed asks only what it had not been told.

One file per stage and model. Every line is found by the hash of all that its answer depends on, so whatever changes, in
a config or in a stage before, exactly the answers that depend on it are asked for again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from datagen.chat import Message
from datagen.engines.base import Engine
from datagen.files import named_on_failure
from datagen.progress import Bar

Said = TypeVar("Said", str, float | None)


class Journal:
    """An engine that remembers.

    Args:
        engines: asked what is not in the journal, each a chunk at a time.
        folder: of the journal's files.
        chunk: answers that are asked for, and then kept, together.
        drawing: what decides a draw besides the prompt and its seed, such as the kind of engine.
    """

    def __init__(self, engines: Sequence[Engine], folder: Path, chunk: int, drawing: str) -> None:
        self.folder = folder
        self._engines, self._chunk, self._drawing = engines, chunk, drawing
        self._identities: dict[str, str] = {}

    def identity(self, model: str) -> str:
        """The engine's, asked for once."""
        if model not in self._identities:
            self._identities[model] = self._engines[0].identity(model)
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

        def ask(engine: Engine, some: Sequence[int]) -> list[str]:
            return engine.write(
                [conversations[i] for i in some],
                max_tokens=max_tokens,
                temperature=temperature,
                seeds=[seeds[i] for i in some] if seeds else None,
                schema=schema,
            )

        return self._said(name, model, conversations, keys, ask)

    def probability(
        self, name: str, model: str, conversations: Sequence[Sequence[Message]], word: str, other: str, after: str = ""
    ) -> list[float | None]:
        """How likely a model says one word rather than another, as `Engine.probability` gives it."""
        keys = [self._key(model, conversation, [word, other, after], None) for conversation in conversations]

        def ask(engine: Engine, some: Sequence[int]) -> list[float | None]:
            return engine.probability([conversations[i] for i in some], word, other, after)

        return self._said(name, model, conversations, keys, ask)

    def _key(self, model: str, conversation: Sequence[Message], settings: Any, seed: int | None) -> str:
        decided = [self.identity(model), self._drawing, list(conversation), settings, seed]
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:24]

    def _said(
        self,
        name: str,
        model: str,
        conversations: Sequence[Sequence[Message]],
        keys: Sequence[str],
        ask: Callable[[Engine, Sequence[int]], list[Said]],
    ) -> list[Said]:
        """What is known and what is not, the latter asked for chunk by chunk, equal ones once."""
        path = self.folder / f"{name}.jsonl"
        known, size = _known(path)
        missing: dict[str, int] = {}
        for i, key in enumerate(keys):
            if key not in known:
                missing.setdefault(key, i)
        if missing:
            places = list(missing.values())
            chunks = [places[start : start + self._chunk] for start in range(0, len(places), self._chunk)]
            with Bar(name, len(missing)) as bar:
                for some, told in zip(chunks, self._shared_out(model, chunks, ask), strict=True):
                    said = dict(zip((keys[i] for i in some), told, strict=True))
                    asked = (conversations[i][-1]["content"] for i in some)
                    size = _append(path, size, zip(said, asked, said.values(), strict=True))
                    known |= said
                    bar.advance(count=len(some))
        return [known[key] for key in keys]

    def _shared_out(
        self,
        model: str,
        chunks: Sequence[Sequence[int]],
        ask: Callable[[Engine, Sequence[int]], list[Said]],
    ) -> Iterator[list[Said]]:
        """What every chunk is told, in order: by whichever engine is free, and none is ever divided among several."""
        if len(self._engines) == 1 or len(chunks) == 1:
            self._engines[0].use(model)
            yield from (ask(self._engines[0], chunk) for chunk in chunks)
            return
        free: SimpleQueue[Engine] = SimpleQueue()

        def ready(engine: Engine) -> None:
            engine.use(model)
            free.put(engine)

        def told(chunk: Sequence[int]) -> list[Said]:
            engine = free.get()
            try:
                return ask(engine, chunk)
            finally:
                free.put(engine)

        with ThreadPoolExecutor(len(self._engines)) as pool:
            list(pool.map(ready, self._engines))
            try:
                yield from pool.map(told, chunks)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _append(path: Path, size: int, told: Iterable[tuple[str, str, Any]]) -> int:
    """Writes a chunk behind what holds of a file, and says how long that is then.

    Args:
        size: of what holds, in bytes; the rest goes.
        told: keys, what was asked, and what was said.
    """
    lines = [{"key": key, "asked": asked, "said": said, "more": True} for key, asked, said in told]
    lines[-1]["more"] = False
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with named_on_failure(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.truncate(size)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    return size + len(data)


def _known(path: Path) -> tuple[dict[str, Any], int]:
    """Key -> answer of all whole chunks of a file, and the bytes that they take.

    A chunk that was cut short is asked for again as a whole, so that what is asked beside what does not depend on where
    a run was killed: on some machines the company of a prompt moves the last bits of its probabilities.
    """
    known: dict[str, Any] = {}
    chunk: dict[str, Any] = {}
    size = read = 0
    with named_on_failure(path):
        if not path.is_file():
            return {}, 0
        with path.open("rb") as file:
            for line in file:
                try:
                    told = json.loads(line)
                    chunk[told["key"]] = told["said"]
                    more = told["more"]
                except (ValueError, KeyError, TypeError):
                    break
                read += len(line)
                if not line.endswith(b"\n"):
                    break
                if not more:
                    known |= chunk
                    chunk, size = {}, read
    return known, size
