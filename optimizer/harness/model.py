"""An engine as a model of lm-eval's: texts become token ids by lm-eval's own rules, and the engine does the rest."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.defaults import DEFAULT_MAX_GEN_TOKS
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from datagen.engines.base import check_fit
from datagen.engines.local import LocalEngine

#: Tokens that a scored text must leave free: vLLM always says one, and lm-eval counts the context without the last.
_FREE = 2


class EngineModel(TemplateLM):  # type: ignore[misc]
    """The model in use of an engine, tokenized as lm-eval's own `hf` model does.

    What does not fit is cut from the left, as lm-eval does.

    Args:
        engine: with a model in use.

    Attributes:
        cut: how many contexts were too long so far.
    """

    def __init__(self, engine: LocalEngine) -> None:
        super().__init__()
        self._engine = engine
        self.tokenizer: Any = engine.tokenizer
        self.cut = 0

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def max_length(self) -> int:
        """Tokens of a context and its continuation, but for the last."""
        return self._engine.longest - _FREE

    @property
    def tokenizer_name(self) -> str:
        """See the base class."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; a text that begins with the token of its beginning gets no second one."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        given = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **given))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text; the system's turn is left out where the template knows none."""

        def applied(messages: Sequence[Mapping[str, str]]) -> str:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages),
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )

        try:
            return applied(chat_history)
        except TemplateError:
            return applied([turn for turn in chat_history if turn["role"] != "system"])

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = []
        for _key, context, continuation in requests:
            check_fit(len(continuation) + _FREE, self._engine.longest)
            pairs.append((self._kept(context, self.max_length + 1 - len(continuation)), continuation))
        return [(one.log_probability, one.greedy) for one in self._engine.log_likelihoods(pairs)]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts, window by window; every token is predicted once."""
        windows = [
            [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            for request in requests
        ]
        asked = [(None, *window) for some in windows for window in some]
        told = iter(self._loglikelihood_tokens(asked))
        return [sum(next(told)[0] for _ in some) for some in windows]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """What follows each context up to a stop; what is drawn is drawn by the request's number."""
        alike: dict[tuple[int, tuple[str, ...], float], list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            alike[self._settings(request.args[1])].append(number)
        texts: dict[int, str] = {}
        for (tokens, stops, temperature), numbers in alike.items():
            check_fit(tokens + 1, self._engine.longest)
            room = self._engine.longest - tokens
            contexts = [self._kept(self.tok_encode(requests[i].args[0]), room) for i in numbers]
            said = self._engine.continuations(
                contexts,
                max_tokens=tokens,
                stops=stops,
                temperature=temperature,
                seeds=numbers if temperature else None,
            )
            texts |= dict(zip(numbers, said, strict=True))
        return [texts[number] for number in range(len(requests))]

    def _kept(self, context: list[int], room: int) -> list[int]:
        """The end of a context that is too long."""
        self.cut += len(context) > room
        return context[-room:]

    def _settings(self, given: Mapping[str, Any]) -> tuple[int, tuple[str, ...], float]:
        """Longest answer, stops, and temperature."""
        known: dict[str, Any] = dict(normalize_gen_kwargs(dict(given), DEFAULT_MAX_GEN_TOKS))
        stops = handle_stop_sequences(known["until"], eos=self.tokenizer.decode(self.eot_token_id))
        temperature = float(known.get("temperature") or 0.0) if known["do_sample"] else 0.0
        return int(known["max_gen_toks"]), tuple(stops), temperature
