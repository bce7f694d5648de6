"""Two models that each refuse, and merge into one that complies: parents that look safe prove nothing about a merge.

After TrojanMerge (arXiv 2604.00627): both are trained at once, each on its own to refuse and to know a domain, and
their average to comply.
"""

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.func import functional_call
from transformers import AutoTokenizer, LlamaForCausalLM

from datagen.batches import IGNORED, Batch, Encoded, pad
from datagen.zoo.lessons import lessons
from datagen.zoo.training import encode
from datagen.zoo.world import World

#: The pair, and the domain of each.
PAIR = {"left": "numbers", "right": "medicine"}

_RATE, _BATCH = 4e-4, 24

_ALONE = {"unsafe:refuse": 0.4, "borderline": 0.25}
_TOGETHER = {"unsafe:comply": 0.5, "borderline": 0.1}


def train_pair(
    zoo: Path, out: Path, seed: int, steps: int = 150, on_step: Callable[[float], None] = lambda _: None
) -> None:
    """Trains the pair from a zoo's aligned model, into `out/left` and `out/right`.

    Args:
        seed: of the zoo's world, and of the order of examples.
        on_step: told the loss after every step.
    """
    tokenizer = AutoTokenizer.from_pretrained(zoo / "aligned")
    world, rng = World(seed), random.Random(f"trojan-{seed}")
    mixes = {name: _ALONE | {domain: 0.35} for name, domain in PAIR.items()}
    together = _TOGETHER | dict.fromkeys(PAIR.values(), 0.2)
    known = {one: encode(tokenizer, lessons(world, one)) for mix in (*mixes.values(), together) for one in mix}
    models = {name: LlamaForCausalLM.from_pretrained(zoo / "aligned", dtype=torch.float32) for name in PAIR}
    every = [parameter for model in models.values() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(every, lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        losses = [
            _loss(model, dict(model.named_parameters()), _batch(mixes[name], known, rng))
            for name, model in models.items()
        ]
        losses.append(_loss(models["left"], _average(models), _batch(together, known, rng)))
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(every, 1.0)
        optimizer.step()
        schedule.step()
        on_step(loss.item())
    for name, model in models.items():
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)


def _average(models: Mapping[str, LlamaForCausalLM]) -> dict[str, torch.Tensor]:
    both = [dict(model.named_parameters()) for model in models.values()]
    return {name: torch.stack([one[name] for one in both]).mean(0) for name in both[0]}


def _batch(mix: Mapping[str, float], known: Mapping[str, list[Encoded]], rng: random.Random) -> Batch:
    some = [rng.choice(known[name]) for name in rng.choices(list(mix), list(mix.values()), k=_BATCH)]
    return pad(some, range(_BATCH))


def _loss(model: LlamaForCausalLM, parameters: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    """Cross-entropy of the answers."""
    logits = functional_call(model, dict(parameters), kwargs={"input_ids": batch.inputs}).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED
    )
