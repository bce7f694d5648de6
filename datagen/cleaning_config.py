"""What counts as a duplicate, as contaminated and as degenerate."""

from typing import Self

from pydantic import Field, model_validator

from datagen.frozen import Settings


class NearConfig(Settings):
    """When two questions are near-duplicates: by the Jaccard similarity of their sets of n-grams.

    Attributes:
        similarity: from here on the later of two questions is dropped.
        cluster: from here on two questions stay in the same split; not above `similarity`.
        characters: length of the n-grams of short questions.
        words: length of the n-grams of long ones.
        long_from: words from which on a question is long.
        permutations: of MinHash; more find more of the pairs just above the similarity, and cost more.
    """

    similarity: float = Field(0.8, ge=0.3, lt=1)
    cluster: float = Field(0.6, ge=0.3, lt=1)
    characters: int = Field(5, ge=1)
    words: int = Field(3, ge=1)
    long_from: int = Field(60, ge=1)
    permutations: int = Field(128, ge=16)

    @model_validator(mode="after")
    def _what_is_left_is_clustered(self) -> Self:
        if self.cluster > self.similarity:
            raise ValueError(
                f"cluster <= similarity must hold, but got {self.cluster} > {self.similarity}; questions that are "
                "dropped as near-duplicates are never split"
            )
        return self


class OverlapConfig(Settings):
    """What the data must not overlap with, and what counts as an overlap.

    Attributes:
        files: glob patterns of files; every text in them counts.
        benchmarks: names of folders or files in `folder`.
        folder: where benchmark data lies.
        words: this many words in a row that also stand in an evaluation text are an overlap.
        contained_from: a whole text of fewer than `words` words is an overlap where the other contains it, if it has at
            least this many words; shorter ones must be equal.
    """

    files: list[str] = []
    benchmarks: list[str] = []
    folder: str = "datasets"
    words: int = Field(13, ge=2)
    contained_from: int = Field(6, ge=1)


class DegenerateConfig(Settings):
    """Which texts say nothing.

    Attributes:
        repeats: a phrase so many times in a row is a loop.
        phrase: longest phrase looked at, in words.
        loop_words: shortest loop, in words: "no no no no" is none.
        run: so many equal characters in a row; rules like `-----` do not count.
        compressed: a text that zlib makes smaller than this share says the same again and again.
        compressed_from: shortest text, in bytes, that is judged by it.
    """

    repeats: int = Field(4, ge=2)
    phrase: int = Field(20, ge=1)
    loop_words: int = Field(12, ge=2)
    run: int = Field(24, ge=2)
    compressed: float = Field(0.15, ge=0, lt=1)
    compressed_from: int = Field(400, ge=1)


class CleaningConfig(Settings):
    """Everything a row must pass.

    Attributes:
        min_question: shortest question, in characters.
        max_question: longest question, in characters.
        max_answer: longest answer, in characters.
        near: none leaves near-duplicates in.
    """

    min_question: int = Field(4, ge=1)
    max_question: int = Field(4000, ge=1)
    max_answer: int = Field(16000, ge=1)
    near: NearConfig | None = NearConfig()
    overlap: OverlapConfig = OverlapConfig()
    degenerate: DegenerateConfig = DegenerateConfig()

    @model_validator(mode="after")
    def _some_length_is_allowed(self) -> Self:
        if self.min_question > self.max_question:
            raise ValueError(
                f"min_question <= max_question must hold, but got {self.min_question} > {self.max_question}"
            )
        return self
