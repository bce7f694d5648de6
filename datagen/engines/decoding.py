"""A decoding loop over left-padded prompts whose rows do not know of each other: each has its own random numbers."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from datagen.engines.base import VERDICT_CANDIDATES, Candidates
from datagen.engines.grammar import Grammar

#: Logits [rows, vocabulary] and the number of the prompt that each row continues -> the next token of every row.
Choice = Callable[[torch.Tensor, Sequence[int]], list[int]]


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    choose: Choice,
    *,
    stops: Collection[int],
    max_tokens: int,
    is_over: Callable[[Sequence[int]], bool] = lambda said: False,
) -> list[list[int]]:
    """Continues every prompt until a stop token or `max_tokens`; a row that has ended leaves the batch.

    Args:
        model: a causal language model of transformers.
        prompts: token ids.
        choose: called once per step.
        stops: tokens that end a row.
        is_over: whether what a row has said ends it.

    Returns:
        The new token ids, the stop token included.
    """
    from transformers import DynamicCache

    inputs, mask = _left_padded(prompts, model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    rows = list(range(len(prompts)))
    said: list[list[int]] = [[] for _ in prompts]
    for step in range(max_tokens):
        logits = model(
            input_ids=inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens = choose(logits.float(), rows)
        for row, token in zip(rows, tokens, strict=True):
            said[row].append(token)
        going = [k for k, token in enumerate(tokens) if token not in stops and not is_over(said[rows[k]])]
        if not going or step == max_tokens - 1:
            break
        if len(going) < len(rows):
            kept = torch.tensor(going, device=mask.device)
            cache.batch_select_indices(kept)
            mask, positions = mask[kept], positions[kept]
            rows, tokens = [rows[k] for k in going], [tokens[k] for k in going]
        inputs = torch.tensor(tokens, device=mask.device)[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return said


@torch.inference_mode()
def likelihoods(model: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
    """How likely a model finds each continuation of its context, in nats, and whether greedy decoding would say it.

    Args:
        model: a causal language model of transformers.
        pairs: context and continuation, token ids, each of at least one.
    """
    inputs, mask = _left_padded([[*context, *continuation[:-1]] for context, continuation in pairs], model.device)
    width = max(len(continuation) for _, continuation in pairs)
    # Every row ends where its last token is predicted.
    logits = model(
        input_ids=inputs,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=width,
    ).logits
    found = []
    for row, (_, continuation) in zip(logits, pairs, strict=True):
        tokens = torch.tensor(list(continuation), device=row.device)
        likely = row[width - len(tokens) :].float().log_softmax(-1)  # [continuation, vocabulary]
        chosen = likely.gather(1, tokens[:, None]).double().sum().item()
        found.append((chosen, bool((likely.argmax(-1) == tokens).all())))
    return found


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both [prompts, width]."""
    width = max(map(len, prompts))
    # What stands in the padding is masked out.
    inputs = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    return inputs.to(device), mask.to(device)


class Sampler:
    """Chooses the likeliest token, or draws one by temperature.

    Row and step alone decide which random number a draw uses, so a row comes out the same in any batch, as far as the
    rounding of its logits allows.

    Args:
        temperature: 0 is greedy.
        seeds: one per prompt; without, every call draws anew.
        prompts: how many there are.
        max_tokens: how many draws a prompt needs at most.
        grammar: what every prompt's answer must follow.
    """

    def __init__(
        self, temperature: float, seeds: Sequence[int] | None, prompts: int, max_tokens: int, grammar: Grammar | None
    ) -> None:
        self._temperature, self._grammar, self._step = temperature, grammar, 0
        # On the CPU, so that a seed means the same on every device.
        self._numbers = torch.stack(
            [_numbers(None if seeds is None else seeds[i], max_tokens) for i in range(prompts)]
        )  # [prompts, max_tokens]

    def __call__(self, logits: torch.Tensor, rows: Sequence[int]) -> list[int]:
        """The next token of every row.

        Args:
            logits: [rows, vocabulary]; changed in place.
            rows: the number of the prompt that each continues.
        """
        if self._grammar is not None:
            self._grammar.restrict(logits, rows)
        if self._temperature == 0:
            chosen = logits.argmax(-1)
        else:
            chosen = draw(logits, self._temperature, self._numbers[list(rows), self._step].to(logits.device))
        self._step += 1
        tokens: list[int] = chosen.tolist()
        if self._grammar is not None:
            self._grammar.take(tokens, rows)
        return tokens


def draw(logits: torch.Tensor, temperature: float, numbers: torch.Tensor) -> torch.Tensor:
    """Tokens whose share of the distribution the numbers fall into, by inverting its cumulative sum.

    Args:
        logits: [rows, vocabulary].
        numbers: from 0 to below 1, float64, [rows].

    Returns:
        [rows].
    """
    cumulative = torch.softmax(logits.double() / temperature, dim=-1).cumsum(-1)
    point = numbers[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, point, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


class Listener:
    """Chooses the likeliest token and keeps what else was likely.

    Args:
        prompts: how many there are.
        text: of a token.

    Attributes:
        heard: the candidates per prompt and position.
    """

    def __init__(self, prompts: int, text: Callable[[int], str]) -> None:
        self._text = text
        self.heard: list[list[Candidates]] = [[] for _ in range(prompts)]

    def __call__(self, logits: torch.Tensor, rows: Sequence[int]) -> list[int]:
        """The next token of every row.

        Args:
            logits: [rows, vocabulary].
            rows: the number of the prompt that each continues.
        """
        top = logits.log_softmax(-1).topk(min(VERDICT_CANDIDATES, logits.shape[-1]), dim=-1)
        likeliest: list[list[int]] = top.indices.tolist()
        for row, tokens, values in zip(rows, likeliest, top.values.tolist(), strict=True):
            self.heard[row].append([(self._text(token), value) for token, value in zip(tokens, values, strict=True)])
        return [tokens[0] for tokens in likeliest]


def _numbers(seed: int | None, count: int) -> torch.Tensor:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64)
