"""What vLLM says of a merge that it makes itself is what transformers says of the exported one, in any architecture."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from datagen.chat import all_prompt_ids, user
from datagen.config import EngineConfig
from datagen.engines.base import Candidates
from datagen.engines.process import EngineProcess
from datagen.errors import EngineDiedError
from optimizer.engines.generating import use_merge
from optimizer.export import write_merge
from optimizer.merging.space import Coefficients, Space
from optimizer.recipes.searched import recipe_of
from optimizer.search.domain import Point
from tests.optimizer.objective.bunches import VOCABULARY, TinyBunch

#: A start per architecture.
pytestmark = pytest.mark.slow

_PLAIN = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,  # so that tokens differ in likelihood
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

_GROUPED = _PLAIN | {"num_key_value_heads": 2}

CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_GROUPED, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**_GROUPED, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**_GROUPED, head_dim=32, tie_word_embeddings=False),
    "mistral": MistralConfig(**_GROUPED, tie_word_embeddings=False),
    "gemma2": Gemma2Config(**_GROUPED | {"initializer_range": 0.01}, head_dim=32),  # it scales its embeddings up
    "phi3": Phi3Config(**_GROUPED, tie_word_embeddings=False),
    "gpt_neox": GPTNeoXConfig(**_PLAIN, tie_word_embeddings=False),
}

ENGINE = EngineConfig(max_model_len=32, memory=0.1)

#: Of as many tokens, so that they make an even batch.
PROMPTS = [user(word) for word in ("abcd", "hell", "zzzz", "path", "AbCd", "word", "lime", "noon")]

TOKENS = 10

#: Logits that are nearer than this are a tie: what is added up in another order may tell them apart either way.
TIE = 1e-4

#: Applies until nothing is allocated for the first time any more, and bytes that all later ones may add: 6 models.
WARM, GROWTH = 3, 8 << 20


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with EngineProcess(ENGINE) as engine:
        yield engine


def points(shape: tuple[int, int]) -> list[Coefficients]:
    """The base, each expert alone, and random ones: 20."""
    rng = np.random.default_rng(0)
    alone = [np.repeat(row[:, None], shape[1], axis=1) for row in np.eye(shape[0])]
    special = [np.zeros(shape), *alone]
    return special + [rng.normal(0.4, 0.4, shape) for _ in range(20 - len(special))]


def resident(pid: int | None) -> int:
    """Bytes of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def compare(
    engine: EngineProcess, tiny: TinyBunch, space: Space, point: Coefficients
) -> tuple[Sequence[Sequence[Candidates]], int]:
    """What the engine says of a merge, and how many answers differ from those of the exported model by a tie."""
    config = tiny.config({"unsafe": 1}, merge={"groups": "layer"})
    use_merge(engine, config, tiny.bunch, space, point)
    heard = engine.first_tokens(PROMPTS, TOKENS)
    folder = write_merge(recipe_of(config, space, Point(point, {})), tiny.folder / "merged", force=True)
    return heard, count_ties(heard, folder)


@torch.no_grad()
def count_ties(heard: Sequence[Sequence[Candidates]], folder: Path) -> int:
    """Answers in which transformers says otherwise of an exported model, each a tie.

    Args:
        heard: the likeliest tokens at every place of every answer.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor(all_prompt_ids(tokenizer, PROMPTS))
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    words = [tokenizer.decode([token]) for token in range(VOCABULARY)]
    ties, tie = 0, TIE if model.dtype == torch.float32 else rounding(model, folder, made.sequences)
    for row, places in enumerate(heard):
        likely = made.logits[0][row].log_softmax(-1)
        for word, value in places[0]:
            assert value == pytest.approx(float(likely[words.index(word)]), abs=max(1e-3, tie))
        answer = [max(place, key=lambda told: told[1])[0] for place in places]
        said = [words[token] for token in made.sequences[row, ids.shape[1] :]]
        if differing := [place for place, word in enumerate(answer) if word != said[place]]:
            logits = made.logits[differing[0]][row].float()
            behind = float(logits.max() - logits[words.index(answer[differing[0]])])
            assert behind < tie
            ties += 1
        else:
            assert len(answer) == TOKENS or answer[-1] == tokenizer.eos_token
    return ties


def rounding(model: PreTrainedModel, folder: Path, ids: torch.Tensor) -> float:
    """What a model's logits lose by its type at most; two engines may lose it in opposite directions."""
    exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return 2 * float((model(ids).logits.float() - exact(ids).logits).abs().max())


def two_devices() -> bool:
    return (torch.cuda.device_count() if torch.cuda.is_available() else os.cpu_count() or 1) > 1


@pytest.mark.parametrize("family", CONFIGS)
def test_merges_say_what_their_exported_folder_says(engine: EngineProcess, family: str, tmp_path: Path) -> None:
    tiny = TinyBunch(tmp_path, CONFIGS[family])
    space = Space.of(tiny.bunch, "layer")
    ties, answers, memory = 0, set(), []
    for point in points(space.shape):
        heard, tied = compare(engine, tiny, space, point)
        memory.append(resident(engine.pid))
        ties += tied
        answers.add(str(heard))
    grown = max(memory) - memory[WARM]
    print(f"{family}: {ties} ties among {20 * len(PROMPTS)} answers, {grown / 2**20:.1f} MiB more after {WARM} merges")
    assert len(answers) == 20
    assert grown < GROWTH
    assert engine.starts == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_merges_in_half_precision_do_too(engine: EngineProcess, dtype: torch.dtype, tmp_path: Path) -> None:
    tiny = TinyBunch(tmp_path, CONFIGS["llama"], dtype)
    space = Space.of(tiny.bunch, "layer")
    ties = sum(compare(engine, tiny, space, point)[1] for point in points(space.shape))
    answers = 20 * len(PROMPTS)
    print(f"{dtype}: {ties} ties among {answers} answers")
    assert ties < answers / 4


@pytest.mark.skipif(not two_devices(), reason="takes two GPUs or two cores")
def test_a_model_that_is_split_is_merged_alike_and_the_death_of_a_part_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    tiny = TinyBunch(tmp_path, CONFIGS["llama"])
    space = Space.of(tiny.bunch, "layer")
    with EngineProcess(ENGINE.model_copy(update={"tensor_parallel": 2})) as engine:
        for point in points(space.shape)[1:4]:
            compare(engine, tiny, space, point)
        workers = subprocess.run(["pgrep", "-g", str(engine.pid), "-f", "Worker"], capture_output=True, text=True)
        os.kill(int(workers.stdout.split()[-1]), signal.SIGKILL)
        with pytest.raises(EngineDiedError, match="vLLM's own processes must live until they have answered"):
            engine.first_tokens(PROMPTS, TOKENS)
