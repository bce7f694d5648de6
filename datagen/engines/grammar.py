"""Which tokens may come next where an answer must follow a JSON schema, by the library that vLLM asks by default."""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from datagen.errors import EngineError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

#: A character of a string of bounded length. xgrammar lets control characters through, which JSON forbids.
_BOUNDED, _BOUNDED_MENDED = r"[^\"\\\r\n]", r"[^\0-\x1f\"\\\r\n]"


def rules(schema: Mapping[str, Any]) -> str:
    """A schema as a grammar (EBNF) of JSON that is spaced as `json.dumps` does, and by no other white space.

    Where white space is free, as in vLLM by default, a model now and then pads with it until no token is left.

    Raises:
        EngineError: the schema is none that can be followed.
    """
    from xgrammar import Grammar as Parsed

    try:
        parsed = Parsed.from_json_schema(json.dumps(schema), any_whitespace=False)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise EngineError(
            f"a JSON schema must be one that xgrammar can follow, but it says: {said}; simplify the schema"
        ) from error
    return str(parsed).replace(_BOUNDED, _BOUNDED_MENDED)


class Grammars:
    """Compiles schemas for one tokenizer.

    Args:
        vocabulary: width of the model's logits, which may be more than the tokenizer has.
        stops: tokens that may end an answer.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", vocabulary: int, stops: Collection[int]) -> None:
        self._tokenizer, self._vocabulary, self._stops = tokenizer, vocabulary, sorted(stops)

    @cached_property
    def _compiler(self) -> Any:
        from xgrammar import GrammarCompiler, TokenizerInfo

        info = TokenizerInfo.from_huggingface(self._tokenizer, vocab_size=self._vocabulary, stop_token_ids=self._stops)
        return GrammarCompiler(info)

    def compiled(self, schema: Mapping[str, Any]) -> Any:
        """A schema in xgrammar's own form, to make `Grammar`s of.

        Raises:
            EngineError: the schema is none that can be followed.
        """
        return self._compiler.compile_grammar(rules(schema))


class Grammar:
    """Follows several answers of one schema, token by token.

    Args:
        compiled: the schema, from `Grammars.compiled`.
        prompts: how many answers there are.
    """

    def __init__(self, compiled: Any, prompts: int) -> None:
        from xgrammar import GrammarMatcher

        self._matchers = [GrammarMatcher(compiled) for _ in range(prompts)]

    def restrict(self, logits: "torch.Tensor", rows: Sequence[int]) -> None:
        """Makes every token impossible that may not come next.

        Args:
            logits: [rows, vocabulary]; changed in place.
            rows: the number of the answer that each continues.
        """
        from xgrammar import allocate_token_bitmask, apply_token_bitmask_inplace

        allowed = allocate_token_bitmask(len(rows), logits.shape[-1])
        for k, row in enumerate(rows):
            self._matchers[row].fill_next_token_bitmask(allowed, k)
        apply_token_bitmask_inplace(logits, allowed.to(logits.device))

    def take(self, tokens: Sequence[int], rows: Sequence[int]) -> None:
        """Goes on by the tokens that were chosen."""
        for row, token in zip(rows, tokens, strict=True):
            if not self._matchers[row].accept_token(token):
                raise RuntimeError(f"token {token} was chosen although the schema forbids it")
