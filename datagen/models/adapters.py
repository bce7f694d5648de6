"""A LoRA adapter over a checkpoint, as PEFT writes it: the adapted tensors are made when asked for.

Hu et al. 2021, https://arxiv.org/abs/2106.09685: W' = W + scaling * B A, where scaling is alpha / r, or alpha / sqrt(r)
with rank-stabilised LoRA (https://arxiv.org/abs/2312.03732). The sum is taken in float32 and rounded once to W's type.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import regex
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datagen.errors import BunchError
from datagen.models.references import tokenizer_folder
from datagen.models.tensor_files import Header, hash_of_blocks, read_headers, read_rows, stored_names
from datagen.models.weights import Weights, is_embeddings, is_head, is_tied
from datagen.reading import read_json

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
PREFIX = "base_model.model."

#: Model types built of Conv1D, which keeps its weight as [in, out].
CONV1D = frozenset(["gpt2", "openai-gpt", "imagegpt", "decision_transformer"])

#: Rows of a product taken at once, counted from row 0, so that a row has the same bits whatever is asked beside it.
_BLOCK_ROWS = 512

#: Keys of adapter_config.json that do not change what an adapter is once it is trained.
_PLAIN = frozenset(
    "task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode r target_modules "
    "exclude_modules lora_alpha lora_dropout fan_in_fan_out bias use_rslora modules_to_save init_lora_weights "
    "layers_to_transform layers_pattern rank_pattern alpha_pattern megatron_core loftq_config eva_config corda_config "
    "lora_ga_config velora_config qalora_group_size runtime_config ensure_weight_tying".split()
)

#: Ways to begin training that leave the base as it was; the others, such as PiSSA, tune a changed base.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<part>[AB])(\.(?!weight$)[^.]+)?(\.weight)?")
_WHOLE = re.compile(r"(?P<module>.+?)(\.modules_to_save(\.[^.]+)?|\.base_layer)?\.(?P<leaf>weight|bias)")


#: Seconds that a pattern may take for one name.
_SECONDS = 1.0


_Rank = Annotated[int, Field(ge=1, lt=1 << 31)]
_Alpha = Annotated[float, Field(gt=-1e9, lt=1e9)]


class _Numbers(BaseModel):
    """The keys of adapter_config.json that tensors are made by."""

    model_config = ConfigDict(allow_inf_nan=False, strict=True)

    r: _Rank = 8
    lora_alpha: _Alpha = 8
    rank_pattern: dict[str, _Rank] | None = None
    alpha_pattern: dict[str, _Alpha] | None = None
    fan_in_fan_out: bool | None = None
    use_rslora: bool | None = None
    ensure_weight_tying: bool | None = None
    init_lora_weights: bool | str | None = None


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one tensor.

    Attributes:
        module: its name in the model, as PEFT has it.
        down: name of A in the adapter, [rank, in].
        up: name of B, [out, rank].
        rank: as the adapter's config says.
        scaling: of the product.
        turned: whether the tensor is [in, out]: embeddings and Conv1D.
        embedding: whether the module is an embedding.
    """

    module: str
    down: str
    up: str
    rank: int
    scaling: float
    turned: bool
    embedding: bool


class Adapted(Weights):
    """A checkpoint with a LoRA adapter; nothing is written, tensors are made when asked for.

    Args:
        base: what the adapter tunes.
        adapter: folder with adapter_config.json and adapter_model.safetensors.
        reference: what it was opened by; by default `base+adapter`.

    Attributes:
        low_rank: tensor name -> what is added to it.
        whole: tensor name -> name of the adapter's tensor that takes its place: a saved module, or a bias.

    Raises:
        BunchError: it is no plain LoRA, or does not fit the base; all reasons at once.
    """

    def __init__(self, base: Weights, adapter: Path, reference: str = "") -> None:
        self.base, self.adapter = base, adapter
        self.reference = reference or f"{base.reference}+{adapter}"
        self.folder, self.files, self.headers = base.folder, base.files, base.headers
        self.tokenizer_folder = tokenizer_folder(base.tokenizer_folder, adapter)
        settings = _checked(read_json(adapter / ADAPTER_CONFIG), adapter / ADAPTER_CONFIG)
        file = adapter / ADAPTER_FILE
        if not file.is_file():
            raise BunchError(f"{adapter}: weights must be in {ADAPTER_FILE}, but it is missing; copy the whole adapter")
        self._stored = read_headers(dict.fromkeys(stored_names(file), file))
        if odd := not_plain(settings):
            raise BunchError("; ".join(f"{adapter}: {reason}" for reason in odd))
        reading = _Reading(base, settings, self._stored)
        self.low_rank, self.whole = reading.low_rank, reading.whole
        if problems := reading.problems + self._untying(reading, bool(settings.get("ensure_weight_tying"))):
            raise BunchError("; ".join(f"{adapter}: {problem}" for problem in problems))

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:  # noqa: D102
        low = self.low_rank.get(name)
        return self._tuned_rows(name, start, stop) if low is None else self._adapted_rows(name, low, start, stop)

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A, [rank, in], and B, [out, rank], of an adapted tensor, in float32 or the adapter's own wider type."""
        low = self.low_rank[name]
        down, up = self._own(low.down), self._own(low.up)
        wide = torch.promote_types(torch.promote_types(down.dtype, up.dtype), torch.float32)
        return down.to(wide), up.to(wide)

    def replaced(self) -> list[str]:
        """Names of tensors that the adapter replaces by others, not merely repeats."""
        return [name for name in self.whole if not torch.equal(self._tuned(name), self.base.tensor(name))]

    def fingerprint(self) -> str:  # noqa: D102
        digest = hashlib.sha256(self.base.fingerprint().encode())
        digest.update((self.adapter / ADAPTER_CONFIG).read_bytes())
        digest.update(hash_of_blocks([self.adapter / ADAPTER_FILE]).encode())
        return digest.hexdigest()[:16]

    def _own(self, key: str) -> torch.Tensor:
        shape = self._stored[key].shape
        return read_rows(self.adapter / ADAPTER_FILE, self._stored[key], 0, shape[0] if shape else 1)

    def _tuned_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """What low-rank factors are added to: the base, or what was saved in its place."""
        if key := self.whole.get(name):
            return read_rows(self.adapter / ADAPTER_FILE, self._stored[key], start, stop).to(self.headers[name].dtype)
        return self.base.rows(name, start, stop)

    def _tuned(self, name: str) -> torch.Tensor:
        return self._tuned_rows(name, 0, self.headers[name].shape[0])

    def _adapted_rows(self, name: str, low: LowRank, start: int, stop: int) -> torch.Tensor:
        down, up = self.factors(name)
        header = self.headers[name]
        stop = min(stop, header.shape[0])
        out = torch.empty((max(0, stop - start), header.shape[1]), dtype=header.dtype)
        for block in range(start - start % _BLOCK_ROWS, stop, _BLOCK_ROWS):
            end = min(block + _BLOCK_ROWS, header.shape[0])
            product = (up @ down[:, block:end]).T if low.turned else up[block:end] @ down
            begin, end = max(block, start), min(end, stop)
            part = product[begin - block : end - block] * low.scaling
            out[begin - start : end - start] = part + self._tuned_rows(name, begin, end)
        return out

    def _untying(self, reading: "_Reading", kept_tied: bool) -> list[str]:
        """Why an adapter would give a head of its own to a model whose head is its embeddings.

        Args:
            reading: of the adapter.
            kept_tied: whether PEFT was told to tune both as one.
        """
        embeddings = next((name for name in self.headers if is_embeddings(name)), None)
        if embeddings is None or not is_tied(self.base.config):
            return []
        problems = []
        factors_tied, saved_tied = self._turns(reading.head_factors, embeddings), self._repeats(reading, embeddings)
        if reading.head_factors and not factors_tied:
            problems.append(
                "the head of a model with tied embeddings must not be tuned apart, but lora_A and lora_B of the head "
                "do; adapt an untied copy of the base, or leave the head out of target_modules"
            )
        if reading.head_whole and not saved_tied:
            problems.append(
                f"the head of a model with tied embeddings must stay equal to them, but {reading.head_whole} differs; "
                f"adapt an untied copy of the base"
            )
        apart = (embeddings in self.low_rank and not factors_tied) or (embeddings in self.replaced() and not saved_tied)
        if apart and not kept_tied and not problems:
            problems.append(
                f"embeddings of a model that ties its head to them must be tuned with ensure_weight_tying, but "
                f"{embeddings} was tuned apart from the head; train again with it, or adapt an untied copy of the base"
            )
        return problems

    def _turns(self, head: Mapping[str, str], embeddings: str) -> bool:
        """Whether a head's factors are the embeddings' transposed, which is how PEFT ties them."""
        low = self.low_rank.get(embeddings)
        if not head or low is None:
            return False
        pairs = ((head["A"], low.up), (head["B"], low.down))
        return all(torch.equal(self._own(one).float(), self._own(other).float().T) for one, other in pairs)

    def _repeats(self, reading: "_Reading", embeddings: str) -> bool:
        """Whether the head that was saved is the embeddings."""
        if reading.head_whole is None:
            return False
        tuned = self._tuned(embeddings)
        return torch.equal(self._own(reading.head_whole).to(tuned.dtype), tuned)


def not_plain(settings: Mapping[str, Any]) -> list[str]:
    """What in an adapter's config makes it other than a plain LoRA."""
    kind = settings.get("peft_type")
    if kind != "LORA":
        return [f"an adapter must be a LoRA, but peft_type is {kind!r}; merge it into its base with PEFT first"]
    start = settings.get("init_lora_weights")
    odd = [key for key, value in settings.items() if value and key not in _PLAIN]
    problems = [
        f"an adapter must be a plain LoRA, but {key} is {settings[key]!r}; merge it into its base with PEFT first"
        for key in odd
    ]
    if start not in _STARTS:
        problems.append(
            f"an adapter must tune its base unchanged, but init_lora_weights {start!r} changes it; convert it with "
            f"PEFT's path_initial_model_for_weight_conversion"
        )
    return problems


class _Reading:
    """Assigns each tensor of an adapter to one of the base, and collects what does not fit."""

    def __init__(self, base: Weights, settings: Mapping[str, Any], stored: Mapping[str, Header]) -> None:
        self._base, self._settings, self._stored = base, settings, stored
        self._tied = is_tied(base.config)
        self.problems: list[str] = []
        self.low_rank: dict[str, LowRank] = {}
        self.whole: dict[str, str] = {}
        self.head_factors: dict[str, str] = {}
        self.head_whole: str | None = None
        factors: dict[tuple[str, bool], dict[str, list[str]]] = {}
        for key in stored:
            name = key.removeprefix(PREFIX)
            if found := _FACTOR.fullmatch(name):
                parts = factors.setdefault((found["module"], bool(found["embedding"])), {})
                parts.setdefault(found["part"], []).append(key)
            elif found := _WHOLE.fullmatch(name):
                self._take_whole(f"{found['module']}.{found['leaf']}", key)
            else:
                self.problems.append(f"every tensor must be part of a LoRA, but {key} is not; save it again with PEFT")
        for (module, embedding), parts in factors.items():
            self._take_factors(module, embedding, parts)

    def _take_whole(self, tensor: str, key: str) -> None:
        name = _counterpart(tensor, self._base.headers)
        if name is None and self._tied and is_head(tensor):
            self.head_whole = key
        elif name is None:
            self.problems.append(_no_counterpart(key, tensor))
        elif self._stored[key].shape != self._base.headers[name].shape:
            self.problems.append(
                f"{key} must have the base's shape {list(self._base.headers[name].shape)}, but has "
                f"{list(self._stored[key].shape)}; use the base it was trained on"
            )
        else:
            self.whole[name] = key

    def _take_factors(self, module: str, embedding: bool, parts: Mapping[str, Sequence[str]]) -> None:
        if sorted(parts) != ["A", "B"] or any(len(keys) != 1 for keys in parts.values()):
            count = {part: len(parts.get(part, [])) for part in "AB"}
            self.problems.append(f"{module}: must have one lora_A and one lora_B, but has {count}; save it again")
            return
        name = _counterpart(f"{module}.weight", self._base.headers)
        if name is None and self._tied and is_head(f"{module}.weight"):
            self.head_factors = {part: keys[0] for part, keys in parts.items()}
            return
        if name is None:
            self.problems.append(_no_counterpart(parts["A"][0], f"{module}.weight"))
            return
        self._take_low_rank(name, module, embedding, parts["A"][0], parts["B"][0])

    def _take_low_rank(self, name: str, module: str, embedding: bool, down: str, up: str) -> None:
        shape, a, b = self._base.headers[name].shape, self._stored[down].shape, self._stored[up].shape
        try:
            rank = int(_by_pattern(self._settings, "rank_pattern", module, self._settings.get("r", 8)))
            alpha = float(_by_pattern(self._settings, "alpha_pattern", module, self._settings.get("lora_alpha", 8)))
        except BunchError as error:
            self.problems.append(str(error))
            return
        if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
            self.problems.append(
                f"{module}: lora_A must be [{rank}, in] and lora_B [out, {rank}] by r and rank_pattern, but they are "
                f"{list(a)} and {list(b)}; use the adapter_config.json it was saved with"
            )
            return
        conv1d = self._base.config.get("model_type") in CONV1D and not is_head(name)
        turned = embedding or conv1d or (bool(self._settings.get("fan_in_fan_out")) and shape != (b[0], a[1]))
        product = (a[1], b[0]) if turned else (b[0], a[1])
        if product != shape:
            self.problems.append(
                f"{module}: lora_B times lora_A must have the base's shape {list(shape)}, but has {list(product)}; use "
                f"the base it was trained on"
            )
            return
        scaling = alpha / (math.sqrt(rank) if self._settings.get("use_rslora") else rank)
        self.low_rank[name] = LowRank(module, down, up, rank, scaling, turned, embedding)


def _checked(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """An adapter's config whose values are of the kinds that the rest relies on."""
    try:
        _Numbers.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BunchError(f"{path}: {place}: {first['msg'].lower()}; use the file that it was saved with") from error
    return settings


def _by_pattern(settings: Mapping[str, Any], patterns: str, module: str, default: float) -> float:
    """A setting that patterns of module names can override, matched as PEFT does: the first that ends the name."""
    for pattern, value in (settings.get(patterns) or {}).items():
        try:
            if regex.match(rf"(.*\.)?({pattern})$", module, timeout=_SECONDS):
                return float(value)
        except (regex.error, TimeoutError) as error:
            raise BunchError(
                f"{patterns}: a pattern must be a regular expression that is quick to match, but {pattern[:40]!r} is "
                f"not; write the modules' names"
            ) from error
    return default


def _counterpart(tensor: str, known: Mapping[str, Header]) -> str | None:
    """The base's name of an adapter's tensor; checkpoints may leave out or add the model's own prefix."""
    bare = tensor.partition(".")[2]
    candidates = [tensor, bare, *(f"{prefix}.{tensor}" for prefix in ("model", "transformer", "gpt_neox"))]
    return next((name for name in candidates if name in known), None)


def _no_counterpart(key: str, tensor: str) -> str:
    return (
        f"every tensor must have a counterpart in the base, but {key} has no {tensor}; use the base it was trained on"
    )
