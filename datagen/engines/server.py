"""Any server that speaks OpenAI's chat completions, such as `vllm serve`; tried with vLLM 0.32.

JSON is asked for by `response_format`; of vLLM by its own `structured_outputs` (0.12 and later), since there
`response_format` leaves white space free.
"""

import difflib
import os
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from datagen.config import EngineConfig
from datagen.engines.base import VERDICT_CANDIDATES, Candidates, Engine, check_fit
from datagen.engines.grammar import rules
from datagen.errors import BunchError, DataError, EngineError

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI
    from openai.types import Model
    from openai.types.chat import ChatCompletion

    from datagen.chat import Message

#: Seconds before the second try and at most before a later one; each wait is twice the last.
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0

#: Without these a vLLM server would sample by the model's generation_config.json, which the other engines do not.
_VLLM_DEFAULTS = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}

T = TypeVar("T")


class _Garbled(Exception):  # noqa: N818 - no error of ours to raise, only one to try again on
    """An answer that is no chat completion."""


class ServerEngine(Engine):
    """Generates on an OpenAI-compatible server, through its own chat templates and within its own limits.

    Args:
        settings: where the server is, and how patiently it is asked.
    """

    def __init__(self, settings: EngineConfig) -> None:
        self._settings = settings
        self._opened: OpenAI | None = None
        self._served: dict[str, Model] = {}
        self._model: Model | None = None

    def check(self, models: Iterable[str]) -> None:  # noqa: D102
        self._served = {model.id: model for model in self._patiently(self._list_models, threading.Event())}
        for model in models:
            self._check_served(model)

    def identity(self, model: str) -> str:  # noqa: D102
        # Not the address: the same model may be served at another one tomorrow.
        return self._name(model)

    def use(self, model: str) -> None:  # noqa: D102
        # Asked each time: whoever has one GPU serves one model after another.
        self.check([model])
        self._model = self._served[self._name(model)]

    def write(  # noqa: D102
        self,
        conversations: Sequence[Sequence["Message"]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> list[str]:
        own = [{"seed": seed} for seed in seeds] if seeds else None
        replies = self._ask_all(conversations, own, max_tokens, schema, temperature=temperature)
        return [reply.choices[0].message.content or "" for reply in replies]

    def first_tokens(  # noqa: D102
        self, conversations: Sequence[Sequence["Message"]], tokens: int
    ) -> list[list[Candidates]]:
        replies = self._ask_all(
            conversations, None, tokens, temperature=0.0, logprobs=True, top_logprobs=VERDICT_CANDIDATES
        )
        told = [reply.choices[0].logprobs for reply in replies]
        if any(logprobs is None for logprobs in told):
            raise EngineError(
                f"{self._settings.address}: a guard's server must tell log-probabilities, but this one gives none; "
                f"use one that has `logprobs` and `top_logprobs`, such as vLLM's"
            )
        return [
            [
                [(c.token, c.logprob) for c in position.top_logprobs]
                for position in (logprobs and logprobs.content) or []
            ]
            for logprobs in told
        ]

    def close(self) -> None:  # noqa: D102
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _client(self) -> "OpenAI":
        if self._opened is None:
            from openai import OpenAI

            # Its own retries are off: they would not catch answers that are no JSON.
            self._opened = OpenAI(
                base_url=self._settings.address, api_key=self._key(), timeout=self._settings.timeout, max_retries=0
            )
        return self._opened

    def _key(self) -> str:
        variable = self._settings.key_variable
        if not variable:
            return "none"
        if not (key := os.environ.get(variable, "")):
            raise EngineError(
                f"engine.key_variable: the environment variable {variable} must hold the server's key, but is not set; "
                f"export it, or drop engine.key_variable"
            )
        return key

    def _name(self, model: str) -> str:
        return self._settings.models.get(model, model)

    def _check_served(self, model: str) -> None:
        name = self._name(model)
        if name in self._served:
            return
        close = difflib.get_close_matches(name, self._served, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise EngineError(
            f"{self._settings.address}: a model must be served to be asked, but {name!r} is not among "
            f"{', '.join(sorted(self._served)) or 'none'}; {hint}Name {model!r} as the server does under "
            f"engine.models, or serve it"
        )

    def _list_models(self) -> "list[Model]":
        models = self._client.models.list()
        if not isinstance(getattr(models, "data", None), list):
            raise _Garbled("no list of models")
        return models.data

    def _ask_all(
        self,
        conversations: Sequence[Sequence["Message"]],
        own: Sequence[Mapping[str, Any]] | None,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
        **shared: Any,
    ) -> "list[ChatCompletion]":
        """One reply per conversation, in order; each is kept once, however often it was asked for.

        Args:
            own: what one request alone is sent.
            schema: of every answer.
            shared: what else all are sent.
        """
        model = self._model
        if model is None:
            raise RuntimeError("`use` must be called before anything is generated")
        shared |= _shaped(model, schema)
        replies: dict[int, ChatCompletion] = {}
        stop = threading.Event()
        # The longest first, so that what does not fit is told at once.
        order = sorted(range(len(conversations)), key=lambda i: -sum(len(m["content"]) for m in conversations[i]))

        def ask(i: int) -> "ChatCompletion":
            sent = shared | dict(own[i] if own else {})
            return self._patiently(lambda: self._ask(model, conversations[i], max_tokens, **sent), stop)

        with ThreadPoolExecutor(self._settings.parallel) as pool:
            numbers = {pool.submit(ask, i): i for i in order}
            try:
                for done in as_completed(numbers):
                    replies[numbers[done]] = done.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [replies[i] for i in range(len(conversations))]

    def _ask(self, model: "Model", messages: Sequence["Message"], max_tokens: int, **sent: Any) -> "ChatCompletion":
        from openai import BadRequestError

        try:
            reply: ChatCompletion = self._client.chat.completions.create(
                model=model.id,
                messages=cast("Any", messages),
                max_tokens=max_tokens,
                top_p=1.0,
                **sent,
            )
        except BadRequestError as error:
            self._refuse(error, model, messages, max_tokens)
        if not getattr(reply, "choices", None) or getattr(reply.choices[0], "message", None) is None:
            raise _Garbled("no choices")
        limit = getattr(model, "max_model_len", None)
        if limit and reply.usage:
            # A server shortens the answer's limit without a word.
            check_fit(reply.usage.prompt_tokens + max_tokens, limit)
        return reply

    def _refuse(
        self, error: "APIStatusError", model: "Model", messages: Sequence["Message"], max_tokens: int
    ) -> NoReturn:
        """Tells what a server has against a request."""
        said = _one_line(error.message)
        if "context length" in said:
            count, limit = self._count_tokens(model, messages), getattr(model, "max_model_len", None)
            if count and limit:
                check_fit(count + max_tokens, limit)
            raise DataError(
                f"prompt and answer must fit the server, but it says: {said}; start it for longer ones, or lower "
                f"data.max_answer_tokens"
            ) from error
        if "chat template" in said:
            raise BunchError(
                f"{model.id}: a model must have a chat template to be asked; start the server with "
                f"--chat-template, or add chat_template.jinja to the model"
            ) from error
        raise EngineError(
            f"{self._settings.address}: a server must be able to do what it is asked, but says: {said}; update it, or "
            f"use another engine.kind"
        ) from error

    def _count_tokens(self, model: "Model", messages: Sequence["Message"]) -> int | None:
        """Tokens of a prompt, by vLLM's own route; none where there is no such."""
        from openai import OpenAIError

        url = self._settings.address.rstrip("/").removesuffix("/v1") + "/tokenize"
        sent = {"model": model.id, "messages": list(messages)}
        try:
            told = self._client.post(url, cast_to=dict[str, Any], body=sent)
            return int(told["count"])
        except (OpenAIError, ValueError, KeyError, TypeError):
            return None

    def _patiently(self, ask: Callable[[], T], stop: threading.Event) -> T:
        """What a request gives, tried again where another try may help.

        Args:
            stop: set when no answer is waited for any more.

        Raises:
            EngineError: it never gave anything, or another try would not help.
        """
        from openai import APIConnectionError, APIStatusError

        for attempt in range(self._settings.retries + 1):
            try:
                return ask()
            except APIStatusError as error:
                if error.status_code not in (408, 409, 429) and error.status_code < 500:
                    self._give_up(error)
                last: Exception = error
            # A body that is no JSON is a ValueError.
            except (APIConnectionError, _Garbled, ValueError) as error:
                last = error
            if attempt == self._settings.retries or stop.wait(_wait(attempt, last)):
                break
        raise EngineError(
            f"{self._settings.address}: a server must answer, but after {attempt + 1} tries: {_reason(last)}; start it "
            f"(`vllm serve MODEL`), or correct engine.address"
        ) from last

    def _give_up(self, error: "APIStatusError") -> NoReturn:
        """Tells what no other try would mend."""
        address, variable = self._settings.address, self._settings.key_variable
        if error.status_code in (401, 403):
            held = f"that of {variable} is refused" if variable else "none is sent"
            raise EngineError(
                f"{address}: the server's key must be in the variable that engine.key_variable names, but {held} "
                f"({error.status_code}); correct it"
            ) from error
        if error.status_code == 404:
            raise EngineError(
                f"{address}: must be the base URL of an OpenAI-compatible server, such as http://localhost:8000/v1, "
                f"and the model must still be served, but it says: {_one_line(error.message)}; correct engine.address"
            ) from error
        raise EngineError(
            f"{address}: a server must do what it is asked, but says {error.status_code}: {_one_line(error.message)}; "
            f"correct engine.address, or use another engine.kind"
        ) from error


def _shaped(model: "Model", schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a server is sent beside the standard, and what answer it is held to."""
    if model.owned_by == "vllm":
        form = {"structured_outputs": {"grammar": rules(schema)}} if schema else {}
        return {"extra_body": _VLLM_DEFAULTS | form}
    named = {"name": "row", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}} if schema else {}


def _wait(attempt: int, error: Exception) -> float:
    """Seconds until the next try: what the server asks for, else ever longer and never in step."""
    response = getattr(error, "response", None)
    asked = response.headers.get("retry-after", "") if response is not None else ""
    wait = float(asked) if asked.isdigit() else _FIRST_WAIT * 2**attempt * random.uniform(0.5, 1.0)
    return min(wait, _LONGEST_WAIT)


def _reason(error: Exception) -> str:
    if isinstance(error, _Garbled | ValueError):
        return f"its answer is garbled ({_one_line(str(error))})"
    cause = error.__cause__ if error.__cause__ is not None else error
    return _one_line(str(cause)) or type(cause).__name__


def _one_line(text: str, most: int = 240) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 3] + "..."
