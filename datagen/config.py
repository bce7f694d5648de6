"""The bunch, and what generates with it."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from datagen.frozen import Settings

#: What experts and kinds of data are called: their names become those of files.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Expert(Settings):
    """One source model besides the base.

    Attributes:
        model: a folder, a Hugging Face name, or `MODEL+ADAPTER`.
        role: `aligned` marks the model whose refusals are to be kept.
    """

    model: str
    role: Literal["expert", "aligned"] = "expert"


def _named(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class BunchConfig(Settings):
    """The source models of one merge.

    Attributes:
        base: what task vectors are taken against; named as an expert's model is.
        experts: by name; a plain string is short for `{model: ...}`.
        tokenizer: name of the source whose tokenizer and chat template all are asked with, and the merged model gets.
            By default each has its own, all must agree, and the merged model gets the aligned one's.
        accept: keys of config.json in which sources may differ; the base's values hold for the merged model.
    """

    base: str
    experts: dict[Name, Annotated[Expert, BeforeValidator(_named)]] = Field(min_length=1)
    tokenizer: str = ""
    accept: list[Literal["hidden_act", "rms_norm_eps", "rope_theta"]] = []

    @model_validator(mode="after")
    def _one_is_aligned(self) -> Self:
        aligned = [name for name, expert in self.experts.items() if expert.role == "aligned"]
        if len(aligned) != 1:
            raise ValueError(f"exactly one expert must have `role: aligned`, but got {aligned or 'none'}")
        if "base" in self.experts:
            raise ValueError("no expert may be named `base`; that is what the base model is called in every table")
        return self

    @model_validator(mode="after")
    def _tokenizer_is_a_sources(self) -> Self:
        if self.tokenizer and self.tokenizer not in self.models():
            raise ValueError(
                f"bunch.tokenizer must name a source, but {self.tokenizer!r} is not among {', '.join(self.models())}"
            )
        return self

    @property
    def aligned(self) -> str:
        """Name of the aligned expert."""
        return next(name for name, expert in self.experts.items() if expert.role == "aligned")

    def models(self) -> dict[str, str]:
        """Name -> reference of every source, base first."""
        return {"base": self.base} | {name: expert.model for name, expert in self.experts.items()}

    def answering(self) -> dict[str, str]:
        """Name -> reference of every source that is asked; the base only if no expert is the same model."""
        experts = {expert.model for expert in self.experts.values()}
        return {name: model for name, model in self.models().items() if name != "base" or model not in experts}

    @property
    def chat(self) -> str:
        """Name of the source whose tokenizer and chat template the merged model gets."""
        return self.tokenizer or self.aligned

    def tokenizers(self) -> dict[str, str]:
        """Source -> the model whose tokenizer it is asked with; empty where each has its own."""
        models = self.models()
        return dict.fromkeys(models.values(), models[self.tokenizer]) if self.tokenizer else {}


class EngineConfig(Settings):
    """What generates, and how it is started or reached.

    Attributes:
        kind: `vllm` in this process; `server`, any OpenAI-compatible one, such as `vllm serve`; or `transformers`.
        dtype: `auto` keeps each checkpoint's own; a server has its own.
        max_model_len: longest prompt and answer together, in tokens; a server has its own.
        memory: share of the device's memory that vLLM may take.
        judges: the same for models that judge answers within a search, unless they are of the bunch's own shape; on
            top of `memory`.
        tensor_parallel: GPUs per model, of vLLM.
        address: of the server, such as `http://localhost:8000/v1`.
        replicas: addresses of further servers of the same models, which share the work chunk by chunk.
        key_variable: name of the environment variable that holds the server's key; none if it asks for none.
        models: model as this config names it -> its name on the server, where the two differ.
        parallel: requests to a server at a time; rows in one batch of transformers. vLLM batches by itself.
        retries: how often a request to a server is tried again.
        timeout: seconds until a request to a server counts as failed.
        chunk: answers that are asked for and kept together; a run that is killed asks for at most so many again.
    """

    kind: Literal["vllm", "server", "transformers"] = "vllm"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int = Field(2048, ge=16)
    memory: float = Field(0.5, gt=0, le=1)
    judges: float = Field(0.3, gt=0, le=1)
    tensor_parallel: int = Field(1, ge=1)
    address: str = ""
    replicas: list[str] = []
    key_variable: str = ""
    models: dict[str, str] = {}
    parallel: int = Field(64, ge=1)
    retries: int = Field(6, ge=0)
    timeout: float = Field(600, gt=0)
    chunk: int = Field(2048, ge=1)

    @model_validator(mode="after")
    def _a_server_has_an_address(self) -> Self:
        for address in (self.address, *self.replicas):
            if self.kind == "server" and not address.startswith(("http://", "https://")):
                raise ValueError(
                    f"engine.address must be the server's base URL, such as http://localhost:8000/v1, but got "
                    f"{address or 'none'}"
                )
        if self.kind != "server" and (self.address or self.replicas):
            raise ValueError(
                f"engine.address is only of use to a server, but engine.kind is {self.kind}; set engine.kind=server, "
                f"or drop the address"
            )
        return self

    @field_validator("key_variable")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        # The value is not repeated: it may be a key.
        if name and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(
                "engine.key_variable must be the name of an environment variable, such as VLLM_API_KEY, but is none; "
                "put the key itself into that variable"
            )
        return name
