"""Supervised fine-tuning of one tiny model, small enough to read and fast enough for two cores."""

import math
import random
from collections.abc import Callable, Iterator

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from datagen.arithmetic import quick_products
from datagen.batches import Batch, Encoded, pad
from datagen.chat import Message, answer_ids
from datagen.zoo.lessons import Lesson
from datagen.zoo.recipes import Architecture, Stage


def new_model(architecture: Architecture, tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """A randomly initialised Llama that fits a tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.heads,
        intermediate_size=architecture.intermediate,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerBase, lessons: list[Lesson]) -> list[Encoded]:
    """Lessons as (prompt ids, answer ids)."""
    return [
        answer_ids(tokenizer, [*lesson.messages, Message(role="assistant", content=lesson.answer)])
        for lesson in lessons
    ]


def fit(
    model: LlamaForCausalLM,
    stage: Stage,
    ingredients: dict[str, list[Encoded]],
    *,
    batch: int,
    seed: int,
    on_step: Callable[[float], None],
) -> None:
    """Trains in place with AdamW on answer tokens only.

    Args:
        ingredients: encoded lessons of every ingredient in the stage's mix.
        batch: examples per step.
        seed: of the order of examples.
        on_step: told the loss after every step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.rate, fused=True)
    warmup = max(1, stage.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, warmup, stage.steps))
    rng = random.Random(f"{stage.name}-{seed}")
    batches = _batches(stage.mix, ingredients, batch, rng)
    model.train()
    for _ in range(stage.steps):
        examples = pad(next(batches), range(batch))
        with quick_products(model, examples.inputs.shape[1]):
            loss = _loss(model, examples)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        on_step(loss.item())
    model.eval()


def _rate(step: int, warmup: int, steps: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def _batches(
    mix: dict[str, float], ingredients: dict[str, list[Encoded]], batch: int, rng: random.Random
) -> Iterator[list[Encoded]]:
    names, shares = list(mix), list(mix.values())
    while True:
        yield [rng.choice(ingredients[name]) for name in rng.choices(names, shares, k=batch)]


def _loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    # Right padding under a causal mask is never seen by a real token, so no attention mask is needed.
    hidden = model.model(input_ids=batch.inputs).last_hidden_state.flatten(0, 1)  # [batch * width, hidden]
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[batch.places]), batch.wanted)
