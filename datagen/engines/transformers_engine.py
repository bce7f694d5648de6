"""Plain transformers, for where vLLM cannot be had: the same answers, more slowly."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from datagen.chat import Message
from datagen.config import EngineConfig
from datagen.engines.base import Candidates
from datagen.engines.decoding import Listener, Sampler, decode, likelihoods
from datagen.engines.grammar import Grammar, Grammars
from datagen.engines.local import Likelihood, LocalEngine, Pair, check_prompts, fitting_prompts, in_use, said_before
from datagen.errors import BunchError
from datagen.models.checkpoints import Checkpoint
from datagen.models.loading import first_line, is_trusted, open_config
from datagen.models.opening import iterate_tensors
from datagen.models.weights import Weights


class TransformersEngine(LocalEngine):
    """Generates with transformers in this process, on one GPU or the CPU."""

    def __init__(self, settings: EngineConfig, tokenizers: Mapping[str, str] | None = None) -> None:
        super().__init__(settings, tokenizers)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model: Any = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._stops: frozenset[int] = frozenset()
        self._grammars: Grammars | None = None

    def use(self, model: str) -> None:  # noqa: D102
        weights, tokenizer = self._open(model)
        self.close()
        self._model = _load(weights, model, self._settings.dtype).to(self._device).eval()
        self._tokenizer = tokenizer
        self._stops = _stops(weights, tokenizer)
        width = self._model.get_output_embeddings().weight.shape[0]
        self._grammars = Grammars(tokenizer, width, self._stops)

    def write(  # noqa: D102
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> list[str]:
        compiled = self._grammars.compiled(schema) if schema and self._grammars else None
        texts = [""] * len(conversations)
        for numbers, prompts in self._batches(conversations, max_tokens):
            grammar = Grammar(compiled, len(numbers)) if compiled is not None else None
            own = None if seeds is None else [seeds[i] for i in numbers]
            sampler = Sampler(temperature, own, len(numbers), max_tokens, grammar)
            said = decode(self._model, prompts, sampler, stops=self._stops, max_tokens=max_tokens)
            for i, ids in zip(numbers, said, strict=True):
                texts[i] = self._text(ids, skip_special_tokens=True)
        return texts

    def first_tokens(self, conversations: Sequence[Sequence[Message]], tokens: int) -> list[list[Candidates]]:  # noqa: D102
        heard: list[list[Candidates]] = [[] for _ in conversations]
        for numbers, prompts in self._batches(conversations, tokens):
            listener = Listener(len(numbers), lambda token: self._text([token]))
            decode(self._model, prompts, listener, stops=self._stops, max_tokens=tokens)
            for i, positions in zip(numbers, listener.heard, strict=True):
                heard[i] = positions
        return heard

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:  # noqa: D102
        return in_use(self._tokenizer)

    def log_likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]:  # noqa: D102
        in_use(self._tokenizer)
        whole = [[*context, *continuation] for context, continuation in pairs]
        check_prompts(whole, 1, self._settings.max_model_len)
        found: dict[int, Likelihood] = {}
        for numbers, _ in self._batched(whole):
            told = likelihoods(self._model, [pairs[i] for i in numbers])
            found |= {i: Likelihood(*one) for i, one in zip(numbers, told, strict=True)}
        return [found[i] for i in range(len(pairs))]

    def continuations(  # noqa: D102
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        stops: Sequence[str] = (),
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[str]:
        in_use(self._tokenizer)
        check_prompts(prompts, max_tokens, self._settings.max_model_len)

        def is_over(ids: Sequence[int]) -> bool:
            text = self._text(ids)
            return any(stop in text for stop in stops if stop)

        texts = [""] * len(prompts)
        for numbers, some in self._batched(prompts):
            own = None if seeds is None else [seeds[i] for i in numbers]
            sampler = Sampler(temperature, own, len(numbers), max_tokens, None)
            said = decode(self._model, some, sampler, stops=self._stops, max_tokens=max_tokens, is_over=is_over)
            for i, ids in zip(numbers, said, strict=True):
                texts[i] = said_before(self._text(ids, skip_special_tokens=True), stops)
        return texts

    def close(self) -> None:  # noqa: D102
        self._model = self._tokenizer = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _batches(
        self, conversations: Sequence[Sequence[Message]], max_tokens: int
    ) -> Iterator[tuple[list[int], list[Sequence[int]]]]:
        return self._batched(fitting_prompts(self._tokenizer, conversations, max_tokens, self._settings.max_model_len))

    def _batched(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], list[Sequence[int]]]]:
        """Prompts of like length together, the longest first, so that memory is short at once or never."""
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
        for start in range(0, len(order), self._settings.parallel):
            numbers = order[start : start + self._settings.parallel]
            yield numbers, [prompts[i] for i in numbers]

    def _text(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        decoded: Callable[..., str] = self._tokenizer.decode  # type: ignore[union-attr]
        return decoded(list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)


def _load(weights: Weights, model: str, dtype: str) -> Any:
    """A model in the type of its checkpoint unless told otherwise; an adapter's tensors are made on the way."""
    disable_progress_bar()
    try:
        config, trusted = open_config(weights.folder), is_trusted(weights.folder)
        if isinstance(weights, Checkpoint):
            return AutoModelForCausalLM.from_pretrained(
                weights.folder, dtype=dtype, trust_remote_code=trusted, use_safetensors=True
            )
        # Tensors that lie in no file are only taken by the model's own class.
        with torch.device("meta"):
            kind = type(AutoModelForCausalLM.from_config(config, trust_remote_code=trusted))
        return kind.from_pretrained(None, config=config, state_dict=dict(iterate_tensors(model)), dtype=dtype)
    except (BunchError, OSError, ValueError, KeyError) as error:
        raise BunchError(
            f"{model}: transformers must be able to load it, but says: {first_line(error)}; use engine.kind=vllm for it"
        ) from error


def _stops(weights: Weights, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """What ends an answer, by the rule of vLLM: the tokenizer's own end of text, and generation_config.json's."""
    ends = {tokenizer.eos_token_id}
    if (weights.folder / "generation_config.json").is_file():
        told = GenerationConfig.from_pretrained(weights.folder).eos_token_id
        ends.update(told if isinstance(told, list) else [told])
    return frozenset(end for end in ends if end is not None)
