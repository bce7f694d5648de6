"""A merge of LoRA adapters over one base, written as one LoRA adapter.

A weighted sum of task vectors of adapters is of low rank itself: the sum of lambda_i s_i B_i A_i is [B_1 B_2 ..] times
[lambda_1 s_1 A_1; lambda_2 s_2 A_2; ..]. Stacked, the factors are exact, of the sum of the ranks; cut to a smaller rank
by singular values, they are the nearest of that rank (Eckart and Young 1936, https://doi.org/10.1007/BF02288367).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from datagen.errors import BunchError, ConfigError
from datagen.models.adapters import ADAPTER_CONFIG, ADAPTER_FILE, PREFIX, Adapted, LowRank
from datagen.models.weights import is_embeddings, is_tied
from datagen.reading import read_json
from optimizer.bunch import Source, open_sources
from optimizer.export.companions import write_companions, write_json
from optimizer.export.folder import check_place, whole_folder
from optimizer.recipes.recipe import Recipe, TensorRecipe

REPORT = "truncation.json"

#: Methods that are a plain sum of task vectors while none of their parameters is set.
SUMS = ("task_arithmetic", "mergealign")


@dataclass(frozen=True)
class AdapterExport:
    """What was written.

    Attributes:
        folder: of the adapter.
        ranks: module -> rank.
        errors: module -> Frobenius norm of what was cut off, over that of the whole update.
        overall: the same over all modules together.
        largest: of `errors`.
    """

    folder: Path
    ranks: Mapping[str, int]
    errors: Mapping[str, float]
    overall: float
    largest: float


@dataclass(frozen=True)
class _Update:
    """What is added to one module: `up @ down`."""

    low: LowRank
    down: torch.Tensor  # [rank, in]
    up: torch.Tensor  # [out, rank]
    cut: float = 0.0  # Frobenius norm of what was cut off
    norm: float = 0.0  # Frobenius norm of the whole


def write_adapter(recipe: Recipe, out: Path, *, rank: int | None = None, force: bool = False) -> AdapterExport:
    """Makes a merge and writes it as a LoRA adapter over the one model that all its sources tune.

    The factors are written in float32 whatever type the recipe names for tensors.

    Args:
        recipe: a plain sum of task vectors; its sources are that model, and adapters over it.
        out: the folder.
        rank: largest rank of a module; by default nothing is cut off.
        force: whether a model or an adapter that is there is replaced.

    Returns:
        What was written.

    Raises:
        ConfigError: the recipe makes no such sum, a source is another model, or `out` or `rank` cannot be used.
        BunchError: a source is missing or damaged, or is no plain adapter; or the disk is full.
    """
    check_place(out, force)
    sources = open_sources(recipe.models, recipe.base, chat=False)
    check_place(out, force, [folder for source in sources.values() for folder in source.folders])
    tensors = recipe.resolve(sources[recipe.base].names)
    _check_sum(recipe, tensors)
    adapted = _adapted(sources)
    coefficients = {name: _of_adapters(tensor, adapted) for name, tensor in tensors.items()}
    with whole_folder(out, force) as beside:
        done = export_adapter(list(adapted.values()), coefficients, beside, rank)
        write_companions(recipe, sources, beside, out_dtype="", adapter=True)
    return replace(done, folder=out)


def _check_sum(recipe: Recipe, tensors: Mapping[str, TensorRecipe]) -> None:
    """Raises ConfigError unless a merge is base + sum of coefficient * (expert - base)."""
    if recipe.method.name not in SUMS:
        raise ConfigError(
            f"a merge is written as an adapter only if its method is one of {', '.join(SUMS)}, but it is "
            f"{recipe.method.name}; write the whole model"
        )
    if odd := next((name for name, tensor in tensors.items() if tensor.settings), None):
        settings = ", ".join(f"{key} {value}" for key, value in tensors[odd].settings.items())
        raise ConfigError(
            f"a merge is written as an adapter only without normalize and lambda, but {odd} has {settings}; fold them "
            f"into the coefficients, or write the whole model"
        )


def _adapted(sources: Mapping[str, Source]) -> dict[str, Adapted]:
    """The sources that are adapters, by name."""
    adapted = {name: one.weights for name, one in sources.items() if isinstance(one.weights, Adapted)}
    tuned = {one.base.folder.resolve() for one in adapted.values()}
    problems = [
        f"a merge is written as an adapter only if all sources are adapters, or the model that these tune, but {name} "
        f"is a whole model of its own, {one.reference}; write the whole model"
        for name, one in sources.items()
        if name not in adapted and one.folder.resolve() not in tuned
    ]
    if problems:
        raise ConfigError("; ".join(problems))
    return adapted


def _of_adapters(tensor: TensorRecipe, adapters: Iterable[str]) -> list[float]:
    """What each adapter's own update is multiplied by: the base's, if it is one, by what the others leave."""
    coefficients = tensor.per_expert("an adapter")
    given = dict(zip(tensor.experts, coefficients, strict=True))
    left = 1.0 - sum(coefficients)
    return [given.get(name, 0.0) + (left if name == tensor.base else 0.0) for name in adapters]


def export_adapter(
    experts: Sequence[Adapted], coefficients: Mapping[str, Sequence[float]], out: Path, rank: int | None = None
) -> AdapterExport:
    """Writes base + sum of coefficient * (expert - base) as an adapter over the base.

    Args:
        experts: adapters over one base.
        coefficients: tensor name -> one per expert, for every tensor that an expert adapts.
        out: folder; made if it is not there.
        rank: largest rank of a module; by default nothing is cut off.

    Returns:
        What was written; it also stands in `truncation.json`.

    Raises:
        BunchError: the experts are no plain adapters over one base.
        ConfigError: the rank or the coefficients cannot be used.
    """
    _check(experts, coefficients, rank)
    names = [name for name in experts[0].headers if any(name in expert.low_rank for expert in experts)]
    tensors: dict[str, torch.Tensor] = {}
    updates: dict[str, _Update] = {}
    for name in names:
        update = _shortened(_stacked(experts, name, coefficients[name]), rank)
        tensors |= _stored(update)
        updates[name] = update
    ranks = {update.low.module: len(update.down) for update in updates.values()}
    errors = {update.low.module: _ratio(update.cut, update.norm) for update in updates.values()}
    overall = _ratio(math.hypot(*(u.cut for u in updates.values())), math.hypot(*(u.norm for u in updates.values())))
    done = AdapterExport(out, ranks, errors, overall, max(errors.values()))
    _write(out, tensors, _settings(experts, {name: update.low for name, update in updates.items()}, ranks), done)
    return done


def _check(experts: Sequence[Adapted], coefficients: Mapping[str, Sequence[float]], rank: int | None) -> None:
    if rank is not None and rank < 1:
        raise ConfigError(f"the rank of an adapter must be 1 or more, but is {rank}; raise it")
    adapted = {name for expert in experts for name in expert.low_rank}
    for name in sorted(adapted):
        given = list(coefficients.get(name, []))
        if len(given) != len(experts) or not all(map(math.isfinite, given)):
            raise ConfigError(
                f"{name} must have {len(experts)} coefficients, one per expert, but has {given}; give them"
            )
    if problems := _unwritable(experts, adapted):
        raise BunchError("; ".join(problems))


def _unwritable(experts: Sequence[Adapted], adapted: set[str]) -> list[str]:
    """Why a merge of these is no adapter."""
    if not adapted:
        return ["a merge is written as an adapter only if an expert is one, but none adapts a tensor; name adapters"]
    problems = []
    bases = {str(expert.base.folder.resolve()): None for expert in experts}
    if len(bases) > 1:
        problems.append(
            f"a merge is written as an adapter only if all experts tune one base, but they tune {', '.join(bases)}; "
            f"write the whole model"
        )
    problems += [
        f"{expert.adapter}: a merge is written as an adapter only if no expert replaces tensors, but modules_to_save "
        f"or bias replaced {len(replaced)}, such as {replaced[0]}; write the whole model"
        for expert in experts
        if (replaced := expert.replaced())
    ]
    tied = is_tied(experts[0].base.config) and next((name for name in adapted if is_embeddings(name)), None)
    if tied:
        problems.append(
            f"a merge is written as an adapter only if embeddings that are tied to the head are left alone, but {tied} "
            f"is adapted; write the whole model"
        )
    return problems


def _stacked(experts: Sequence[Adapted], name: str, coefficients: Sequence[float]) -> _Update:
    """The exact sum: factors one below, and one beside, the other."""
    downs, ups = [], []
    holding = [(expert, scale) for expert, scale in zip(experts, coefficients, strict=True) if name in expert.low_rank]
    # An expert that takes no part would only lengthen the factors; one is kept where none takes part.
    for expert, scale in [pair for pair in holding if pair[1] != 0.0] or holding[:1]:
        down, up = expert.factors(name)
        downs.append(down * (scale * expert.low_rank[name].scaling))
        ups.append(up)
    return _Update(holding[0][0].low_rank[name], torch.cat(downs, 0), torch.cat(ups, 1))


def _shortened(update: _Update, rank: int | None) -> _Update:
    """The nearest update of at most a rank.

    With B = Q_B R_B and A^T = Q_A R_A, the singular values of B A are those of R_B R_A^T, [rank, rank], so the whole
    matrix is never formed.
    """
    q_up, r_up = torch.linalg.qr(update.up.double())
    q_down, r_down = torch.linalg.qr(update.down.double().T)
    core = r_up @ r_down.T
    if rank is None or rank >= len(update.down):
        return _Update(update.low, update.down, update.up, 0.0, float(torch.linalg.norm(core)))
    left, values, right = torch.linalg.svd(core, full_matrices=False)
    root = values[:rank].sqrt()
    dtype = update.down.dtype
    return _Update(
        update.low,
        down=(root[:, None] * (right[:rank] @ q_down.T)).to(dtype),
        up=((q_up @ left[:, :rank]) * root).to(dtype),
        cut=float(torch.linalg.norm(values[rank:])),
        norm=float(torch.linalg.norm(values)),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _stored(update: _Update) -> dict[str, torch.Tensor]:
    """Under the names that PEFT reads."""
    kind = ("lora_embedding_A", "lora_embedding_B") if update.low.embedding else ("lora_A.weight", "lora_B.weight")
    module = PREFIX + update.low.module
    return {f"{module}.{kind[0]}": update.down.contiguous(), f"{module}.{kind[1]}": update.up.contiguous()}


def _settings(experts: Sequence[Adapted], low_rank: Mapping[str, LowRank], ranks: Mapping[str, int]) -> dict[str, Any]:
    """The adapter's config; alpha is the rank everywhere, since coefficients and scalings are in A."""
    largest = max(ranks.values())
    own = {f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != largest}
    told = [read_json(expert.adapter / ADAPTER_CONFIG) for expert in experts]
    bases = {settings.get("base_model_name_or_path") for settings in told}
    same = bases.pop() if len(bases) == 1 else None
    return {
        "peft_type": "LORA",
        "task_type": told[0].get("task_type") or "CAUSAL_LM",
        "base_model_name_or_path": same or experts[0].base.reference,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": own,
        "alpha_pattern": own,
        "target_modules": _targets(experts[0], low_rank),
        "fan_in_fan_out": any(low.turned and not low.embedding for low in low_rank.values()),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "init_lora_weights": True,
    }


def _targets(model: Adapted, low_rank: Mapping[str, LowRank]) -> list[str]:
    """Last parts of module names where these tell the adapted modules from the others, else whole names."""
    adapted = Counter(low.module.rpartition(".")[2] for low in low_rank.values())
    known = Counter(name.split(".")[-2] for name in model.headers if name.count(".") and name.endswith(".weight"))
    whole = [low.module for low in low_rank.values() if known[last := low.module.rpartition(".")[2]] != adapted[last]]
    return sorted(last for last, count in adapted.items() if known[last] == count) + whole


def _write(out: Path, tensors: dict[str, torch.Tensor], settings: dict[str, Any], done: AdapterExport) -> None:
    out.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, out / ADAPTER_FILE, metadata={"format": "pt"})
    write_json(out / ADAPTER_CONFIG, settings)
    report = asdict(done)
    del report["folder"]
    write_json(out / REPORT, report)
