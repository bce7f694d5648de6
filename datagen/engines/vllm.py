"""vLLM, started once per architecture: every further model of it is swapped in place."""

import contextlib
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from datagen.chat import Message
from datagen.config import EngineConfig
from datagen.engines.base import VERDICT_CANDIDATES, Candidates
from datagen.engines.grammar import rules
from datagen.engines.local import (
    Likelihood,
    LoadingEngine,
    Pair,
    check_prompts,
    fitting_prompts,
    in_use,
    open_chat,
    said_before,
)
from datagen.engines.memory import CPU_SPACE, crowded, shortage
from datagen.engines.words import last_words, tail
from datagen.errors import EngineDiedError, EngineError, GoodbunchError
from datagen.models.config import read_config
from datagen.models.loading import is_trusted
from datagen.models.opening import iterate_tensors

#: Keys of config.json that do not change the shape of a model.
_COSMETIC = {"_name_or_path", "transformers_version", "architectures_source", "use_cache", "torch_dtype"}


class VllmEngine(LoadingEngine):
    """Generates with vLLM in this process, one model at a time.

    Args:
        settings: how it is started.
        tokenizers: model -> the one whose tokenizer and chat template it is asked with; by default its own.
        quiet: whether what native code says at the start is kept off the standard error unless the start fails.
    """

    def __init__(self, settings: EngineConfig, tokenizers: Mapping[str, str] | None = None, quiet: bool = True) -> None:
        super().__init__(settings, tokenizers)
        self._quiet = quiet
        self._llm: Any = None
        self._names: list[str] = []
        self._shape = self._model = ""
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self.starts = 0

    @property
    def bare(self) -> Any:
        """VLLM's own `LLM`, with the weights of the model in use; none before."""
        return self._llm

    def use(self, model: str) -> None:
        """Makes a model the one that answers; a restart happens only when the architecture changes.

        Args:
            model: a folder, a Hugging Face name, or `MODEL+ADAPTER`.
        """
        self._model = ""  # its files may have changed
        self.prepare(model)
        self.load(iterate_tensors, model)

    def prepare(self, model: str) -> None:  # noqa: D102
        if model == self._model:
            return
        weights, tokenizer = self._open(model)
        folder = weights.folder
        shape = _shape(folder, tokenizer)
        if self._llm is None or shape != self._shape:
            self.close()
            self._start(folder, tokenizer)
            self._shape = shape
            self._names = sorted(weights.headers)
        self._tokenizer, self._model = tokenizer, model

    def load(self, function: Callable[..., Iterator[tuple[str, torch.Tensor]]], *arguments: Any) -> None:
        """Replaces the weights by what a function yields inside the worker, and forgets what the old ones cached.

        Args:
            function: of a module's top level, imported by name where the worker runs.
            arguments: plain values.
        """
        name = f"{function.__module__}:{function.__qualname__}"
        try:
            with self._alive():
                self._llm.collective_rpc("load", args=(name, list(arguments), self._names))
        except Exception as error:
            # vLLM would take the next weights for the rest of these.
            self.close()
            if told := crowded(str(error), self._settings):
                raise EngineError(told) from error
            raise
        self._llm.reset_prefix_cache()

    def write(  # noqa: D102
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> list[str]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        structured = StructuredOutputsParams(grammar=rules(schema)) if schema else None
        params = [
            SamplingParams(
                temperature=temperature,
                max_tokens=max_tokens,
                seed=seeds[i] if seeds else None,
                structured_outputs=structured,
            )
            for i in range(len(conversations))
        ]
        return [output.outputs[0].text for output in self._generate(conversations, params, max_tokens)]

    def first_tokens(self, conversations: Sequence[Sequence[Message]], tokens: int) -> list[list[Candidates]]:  # noqa: D102
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=tokens, logprobs=VERDICT_CANDIDATES)
        outputs = self._generate(conversations, [params] * len(conversations), tokens)
        return [
            [
                [(candidate.decoded_token or "", candidate.logprob) for candidate in position.values()]
                for position in output.outputs[0].logprobs or []
            ]
            for output in outputs
        ]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:  # noqa: D102
        return in_use(self._tokenizer)

    def log_likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]:  # noqa: D102
        from vllm import SamplingParams

        prompts = [[*context, *continuation] for context, continuation in pairs]
        # It always says a token more.
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)
        found = []
        for (context, continuation), output in zip(pairs, self._run(prompts, [params] * len(prompts), 1), strict=True):
            told = output.prompt_logprobs[len(context) :]
            each = [position[token].logprob for token, position in zip(continuation, told, strict=True)]
            best = [max(one.logprob for one in position.values()) for position in told]
            found.append(Likelihood(sum(each), each == best))
        return found

    def continuations(  # noqa: D102
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        stops: Sequence[str] = (),
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[str]:
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=temperature,
                max_tokens=max_tokens,
                seed=seeds[i] if seeds else None,
                stop=list(filter(None, stops)),
                # Only so can a stop be a special token.
                skip_special_tokens=False,
            )
            for i in range(len(prompts))
        ]
        outputs = self._run(prompts, params, max_tokens)
        said = [self.tokenizer.decode(output.outputs[0].token_ids, skip_special_tokens=True) for output in outputs]
        return [said_before(text, stops) for text in said]

    def close(self) -> None:  # noqa: D102
        if self._llm is None:
            return
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        self._llm = self._tokenizer = None
        self._model = ""
        cleanup_dist_env_and_memory()
        gc.collect()

    def _generate(self, conversations: Sequence[Sequence[Message]], params: list[Any], max_tokens: int) -> list[Any]:
        prompts = fitting_prompts(self._tokenizer, conversations, max_tokens, self._settings.max_model_len)
        return self._run(prompts, params, max_tokens)

    def _run(self, prompts: Sequence[Sequence[int]], params: list[Any], max_tokens: int) -> list[Any]:
        in_use(self._tokenizer)
        check_prompts(prompts, max_tokens, self._settings.max_model_len)
        with self._alive():
            # What is cached from earlier calls moves the last bits, and a resumed run has not made them.
            self._llm.reset_prefix_cache()
            outputs: list[Any] = self._llm.generate(
                [{"prompt_token_ids": list(ids)} for ids in prompts], params, use_tqdm=False
            )
        return outputs

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """Tells of the death of processes that vLLM itself has started, as it does for several GPUs."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            yield
        except EngineDeadError as error:
            words = last_words(tail(2))
            self.close()
            raise EngineDiedError(
                f"vLLM's own processes must live until they have answered, but one ended, and the last words here "
                f"were: {words or 'none'}; if memory ran out, lower engine.memory or engine.max_model_len",
                words=words,
            ) from error

    def _start(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        _prepare_environment(self._settings)
        with _quiet_stderr() if self._quiet else contextlib.nullcontext():
            try:
                self._llm = self._open_llm(folder, tokenizer)
            except ModuleNotFoundError as error:
                raise EngineError(
                    f"engine.kind is vllm, which must be installed, but {error.name} is missing; install "
                    f"goodbunch[gpu], or set engine.kind=transformers"
                ) from error
            except (ValueError, RuntimeError) as error:
                # With several GPUs the cause is told by another process, on the standard error alone.
                said = f"{error}\n{tail(2)}"
                if told := shortage(said, self._settings, torch.cuda.is_available()):
                    raise EngineError(told) from error
                raise
        self.starts += 1

    def _open_llm(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Any:
        from vllm import LLM

        return LLM(
            model=str(folder),
            tokenizer=tokenizer.name_or_path,
            dtype=_dtype(folder, self._settings.dtype),
            max_model_len=self._settings.max_model_len,
            gpu_memory_utilization=self._settings.memory,
            tensor_parallel_size=self._settings.tensor_parallel,
            enforce_eager=not torch.cuda.is_available(),
            # On a CPU a prompt that is read in parts cannot be sampled from by a seed of its own.
            enable_chunked_prefill=None if torch.cuda.is_available() else False,
            worker_extension_cls="datagen.engines.worker.LoadWeights",
            disable_log_stats=True,
            use_tqdm_on_load=False,
            trust_remote_code=all(
                map(is_trusted, {folder, Path(tokenizer.name_or_path)})
            ),  # there is one word for both
            seed=0,
        )


def _prepare_environment(settings: EngineConfig) -> None:
    # One process keeps the scheduling, and with it every sampled token, the same from run to run.
    if settings.tensor_parallel == 1:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault(CPU_SPACE, "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keeps start-up chatter of native code off the terminal unless the start fails for no reason that we know."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except GoodbunchError:
            raise
        except BaseException:
            chatter.seek(0)
            os.write(saved, chatter.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)


def same_shape(model: str, other: str, tokenizers: Mapping[str, str]) -> bool:
    """Whether one start serves two models.

    Args:
        model: as `VllmEngine.use` takes it.
        other: the same.
        tokenizers: model -> the one whose tokenizer it is asked with; by default its own.
    """
    opened = [open_chat(one, tokenizers.get(one, one)) for one in (model, other)]
    first, second = (_shape(weights.folder, tokenizer) for weights, tokenizer in opened)
    return first == second


def _shape(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """What two models must share to be swapped in place: everything but their weights."""
    config = read_config(folder)
    kept = {key: value for key, value in config.items() if key not in _COSMETIC}
    return json.dumps([kept, sorted(tokenizer.get_vocab().items())], sort_keys=True)


def _dtype(folder: Path, wanted: str) -> str:
    """What vLLM is told; its own `auto` would cast float32 down; ours keeps what the checkpoint says."""
    if wanted != "auto":
        return wanted
    config = read_config(folder)
    return str(config.get("dtype") or config.get("torch_dtype") or "auto")
