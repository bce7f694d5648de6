"""What engines say about token ids: held against a plain forward pass in float64, and against each other."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from datagen.config import EngineConfig
from datagen.engines.local import LocalEngine, Pair, said_before
from datagen.engines.process import EngineProcess
from datagen.engines.transformers_engine import TransformersEngine
from datagen.errors import DataError
from tests.optimizer.tiny_zoo import FOR_VLLM, TinyZoo

LIMIT = 32

ENGINES: dict[str, Callable[[EngineConfig], LocalEngine]] = {
    "transformers": TransformersEngine,
    "vllm in its process": EngineProcess,
}


@pytest.fixture(scope="module")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> TinyZoo:
    return TinyZoo(tmp_path_factory.mktemp("tiny-zoo"), **FOR_VLLM)


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm in its process", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest, tiny_zoo: TinyZoo) -> Iterator[LocalEngine]:
    settings = EngineConfig(max_model_len=LIMIT, memory=0.1, parallel=3)
    with ENGINES[request.param](settings) as engine:
        engine.use(str(tiny_zoo.folder / "math"))
        yield engine


@pytest.fixture(scope="module")
def pairs(tiny_zoo: TinyZoo) -> list[Pair]:
    """Random ones of all lengths, and greedy continuations."""
    generator = torch.Generator().manual_seed(0)
    found: list[Pair] = []
    for context, continuation in ((1, 1), (1, 30), (12, 2), (30, 1), (5, 9), (7, 1), (7, 1)):
        ids = torch.randint(3, 48, (context + continuation,), generator=generator).tolist()
        found.append((ids[:context], ids[context:]))
    model = plain(tiny_zoo.folder / "math")
    for length in (1, 4):
        prompt = found[4][0]
        found.append((prompt, greedy(model, prompt, length)))
    found.append((found[4][0], [*greedy(model, found[4][0], 3), 3]))
    return found


def plain(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


@torch.no_grad()
def greedy(model: torch.nn.Module, prompt: list[int], length: int) -> list[int]:
    said: list[int] = []
    for _ in range(length):
        said.append(int(model(input_ids=torch.tensor([[*prompt, *said]])).logits[0, -1].argmax()))
    return said


@torch.no_grad()
def test_likelihoods_are_those_of_a_forward_pass(engine: LocalEngine, pairs: list[Pair], tiny_zoo: TinyZoo) -> None:
    model = plain(tiny_zoo.folder / "math")
    found = engine.log_likelihoods(pairs)
    for (context, continuation), one in zip(pairs, found, strict=True):
        logits = model(input_ids=torch.tensor([[*context, *continuation]])).logits[0, len(context) - 1 : -1]
        chosen = logits.log_softmax(-1)[range(len(continuation)), list(continuation)]
        assert one.log_probability == pytest.approx(chosen.sum().item(), abs=1e-4)
        assert one.greedy == (logits.argmax(-1).tolist() == list(continuation))
    assert [one.greedy for one in found[-3:]] == [True, True, False]


def test_order_and_company_make_no_difference(engine: LocalEngine, pairs: list[Pair]) -> None:
    found = engine.log_likelihoods(pairs)
    assert engine.log_likelihoods([]) == []
    alone = [engine.log_likelihoods([pair])[0] for pair in pairs[::-1]][::-1]
    for one, other in zip(found, alone, strict=True):
        assert math.isclose(one.log_probability, other.log_probability, abs_tol=1e-5)
        assert one.greedy == other.greedy


def test_continuations_are_greedy_decoding_up_to_a_stop(engine: LocalEngine, tiny_zoo: TinyZoo) -> None:
    model = plain(tiny_zoo.folder / "math")
    prompts = [[3 + (7 * i + j) % 40 for j in range(1 + i)] for i in range(8)]
    whole = [engine.tokenizer.decode(_ended(greedy(model, p, 12)), skip_special_tokens=True) for p in prompts]
    assert engine.continuations(prompts, max_tokens=12) == whole
    stops = [whole[0][3:5], whole[1][2], ""]
    assert engine.continuations(prompts, max_tokens=12, stops=stops) == [said_before(text, stops) for text in whole]
    assert engine.continuations(prompts, max_tokens=12, stops=stops)[0] != whole[0]


def _ended(ids: list[int]) -> list[int]:
    """Up to the end of the text."""
    return ids[: ids.index(2)] if 2 in ids else ids


def test_a_special_token_can_be_a_stop(engine: LocalEngine, tiny_zoo: TinyZoo) -> None:
    model = plain(tiny_zoo.folder / "math")
    prompts = [[3 + (11 * i + j) % 40 for j in range(3)] for i in range(40)]
    said = {i: _ended(greedy(model, prompt, 16)) for i, prompt in enumerate(prompts)}
    speaking = next(i for i, ids in said.items() if 1 in ids)
    ids = said[speaking]
    wanted = engine.tokenizer.decode(ids[: ids.index(1)], skip_special_tokens=True)
    assert engine.continuations([prompts[speaking]], max_tokens=16, stops=["<s>"]) == [wanted]


def test_draws_depend_on_the_seed_alone(engine: LocalEngine) -> None:
    prompts = [[5, 6, 7]] * 6
    seeds = list(range(6))
    first = engine.continuations(prompts, max_tokens=8, temperature=2.0, seeds=seeds)
    assert len(set(first)) > 1
    assert engine.continuations(prompts[:2], max_tokens=8, temperature=2.0, seeds=[4, 1]) == [first[4], first[1]]


def test_what_does_not_fit_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(DataError, match="need 33 of 32 tokens"):
        engine.log_likelihoods([([3] * 30, [4, 5])])
    with pytest.raises(DataError, match="need 33 of 32 tokens"):
        engine.continuations([[3] * 30], max_tokens=3)
    assert engine.longest == LIMIT


@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
def test_nothing_is_known_before_a_model_is_in_use(make: Callable[[EngineConfig], LocalEngine]) -> None:
    with make(EngineConfig(max_model_len=LIMIT)) as engine:
        for ask in (
            lambda: engine.log_likelihoods([([1], [2])]),
            lambda: engine.continuations([[1]], max_tokens=1),
            lambda: engine.tokenizer,
        ):
            with pytest.raises(RuntimeError, match="`use` must be called"):
                ask()


@pytest.mark.parametrize(
    ("stops", "text"), [(["b"], "a"), (["d", "cd"], "ab"), ([], "abcde"), (["x", ""], "abcde"), (["ab"], "")]
)
def test_said_before(stops: list[str], text: str) -> None:
    assert said_before("abcde", stops) == text
