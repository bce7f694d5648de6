"""vLLM, started once per architecture: every further model of it is swapped in place."""

import contextlib
import gc
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from datagen.chat import Message, prompt_ids
from datagen.checkpoints import iterate_tensors, local_folder, tensor_names
from datagen.config import EngineConfig
from datagen.errors import BunchError, DataError

#: How many of the likeliest first tokens are looked at for a verdict, and how many tokens may come before it.
_VERDICT_CANDIDATES, _VERDICT_WITHIN = 20, 4

#: Keys of config.json that do not change the shape of a model.
_COSMETIC = {"_name_or_path", "transformers_version", "architectures_source", "use_cache", "torch_dtype"}


class VllmEngine:
    """Generates with one model at a time; use it as a context manager.

    Args:
        settings: how vLLM is started.
    """

    def __init__(self, settings: EngineConfig) -> None:
        self._settings = settings
        self._llm: Any = None
        self._names: list[str] = []
        self._shape = ""
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self.starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def use(self, model: str) -> None:
        """Makes a model the one that answers; a restart happens only when the architecture changes.

        Args:
            model: a folder or a Hugging Face name.
        """
        folder = local_folder(model)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if not tokenizer.chat_template:
            raise BunchError(f"{model}: a model must have a chat template to be asked; add chat_template.jinja to it")
        shape = _shape(folder, tokenizer)
        if self._llm is None or shape != self._shape:
            self.close()
            self._start(folder)
            self._shape = shape
            self._names = sorted(tensor_names(folder))
        self.load(iterate_tensors, str(folder))
        self._tokenizer = tokenizer

    def load(self, function: Callable[..., Iterator[tuple[str, torch.Tensor]]], *arguments: Any) -> None:
        """Replaces the weights by what a function yields inside the worker, and forgets what the old ones cached.

        Args:
            function: of a module's top level, imported by name where the worker runs.
            arguments: plain values.
        """
        name = f"{function.__module__}:{function.__qualname__}"
        self._llm.collective_rpc("load", args=(name, list(arguments), self._names))
        self._llm.reset_prefix_cache()

    def write(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Answers every conversation.

        Args:
            conversations: each ends with a user turn.
            max_tokens: longest answer.
            temperature: 0 is greedy.
            seeds: one per conversation; the same seed gives the same answer, whatever else is asked beside it.
            schema: JSON schema that every answer must follow.

        Returns:
            One text per conversation, in order.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        structured = StructuredOutputsParams(json=dict(schema), disable_any_whitespace=True) if schema else None
        params = [
            SamplingParams(
                temperature=temperature,
                max_tokens=max_tokens,
                seed=seeds[i] if seeds else None,
                structured_outputs=structured,
            )
            for i in range(len(conversations))
        ]
        return [output.outputs[0].text for output in self._generate(conversations, params)]

    def probability(self, conversations: Sequence[Sequence[Message]], word: str, other: str) -> list[float | None]:
        """How likely each answer begins with `word` rather than with `other`.

        Read off the first token that could begin either, since some guards open with white space.

        Returns:
            P(word) / (P(word) + P(other)) per conversation; none where the answer begins with neither.
        """
        from vllm import SamplingParams

        odds: list[float | None] = [None] * len(conversations)
        for tokens in (1, _VERDICT_WITHIN):
            # Most guards say the word at once; only those that do not are asked for more.
            silent = [i for i, found in enumerate(odds) if found is None]
            params = SamplingParams(temperature=0.0, max_tokens=tokens, logprobs=_VERDICT_CANDIDATES)
            outputs = self._generate([conversations[i] for i in silent], [params] * len(silent))
            for i, output in zip(silent, outputs, strict=True):
                odds[i] = _odds(output.outputs[0].logprobs, word, other)
        return odds

    def close(self) -> None:
        """Ends vLLM and gives its memory back."""
        if self._llm is None:
            return
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        cleanup_dist_env_and_memory()
        gc.collect()

    def _generate(self, conversations: Sequence[Sequence[Message]], params: list[Any]) -> list[Any]:
        if self._tokenizer is None:
            raise RuntimeError("`use` must be called before anything is generated")
        limit = self._settings.max_model_len
        prompts = [{"prompt_token_ids": prompt_ids(self._tokenizer, messages)} for messages in conversations]
        longest = max(
            (len(p["prompt_token_ids"]) + q.max_tokens for p, q in zip(prompts, params, strict=True)), default=0
        )
        if longest > limit:
            raise DataError(
                f"prompt and answer must fit max_model_len, but need {longest} of {limit} tokens; "
                f"raise engine.max_model_len or lower data.max_answer_tokens"
            )
        outputs: list[Any] = self._llm.generate(prompts, params, use_tqdm=False)
        return outputs

    def _start(self, folder: Path) -> None:
        _prepare_environment(self._settings)
        with _quiet_stderr():
            from vllm import LLM

            self._llm = LLM(
                model=str(folder),
                dtype=_dtype(folder, self._settings.dtype),
                max_model_len=self._settings.max_model_len,
                gpu_memory_utilization=self._settings.memory,
                tensor_parallel_size=self._settings.tensor_parallel,
                enforce_eager=not torch.cuda.is_available(),
                worker_extension_cls="datagen.engines.worker.LoadWeights",
                disable_log_stats=True,
                use_tqdm_on_load=False,
                seed=0,
            )
        self.starts += 1


def _prepare_environment(settings: EngineConfig) -> None:
    # One process keeps the scheduling, and with it every sampled token, the same from run to run.
    if settings.tensor_parallel == 1:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keeps start-up chatter of native code off the terminal unless the start fails."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except BaseException:
            chatter.seek(0)
            os.write(saved, chatter.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)


def _shape(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """What two models must share to be swapped in place: everything but their weights."""
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in _COSMETIC}
    return json.dumps([kept, sorted(tokenizer.get_vocab().items())], sort_keys=True)


def _dtype(folder: Path, wanted: str) -> str:
    """What vLLM is told; its own `auto` would cast float32 down; ours keeps what the checkpoint says."""
    if wanted != "auto":
        return wanted
    config = json.loads((folder / "config.json").read_text())
    return str(config.get("dtype") or config.get("torch_dtype") or "auto")


def _odds(positions: Any, word: str, other: str) -> float | None:
    for candidates in positions or []:
        weight = {word: 0.0, other: 0.0}
        for candidate in candidates.values():
            text = (candidate.decoded_token or "").strip()
            for choice in (word, other):
                if text and choice.startswith(text):
                    weight[choice] += math.exp(candidate.logprob)
        total = sum(weight.values())
        if total > 0.5:
            return weight[word] / total
    return None
