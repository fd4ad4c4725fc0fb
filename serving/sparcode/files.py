"""SparCode's files in a bundle: the users' tokenizer, the codebook and the posting lists.

    user_tokenizer.tflite   inputs of the user tower -> [B, K_u D]
    codebook.npy            [M, N, P] float32
    postings/               see `serving.sparcode.postings`

K_u tokens of a user, D width of a token, M parts, N codes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serving.retrieval.exported_tower import ExportedTower
from serving.sparcode.codebook import Codebook
from serving.sparcode.postings import Postings
from serving.sparcode.retriever import SparCode

if TYPE_CHECKING:
    from serving.sparcode.retriever import SparCode


SERVED, REPORT = "served", "report.json"


def read_report(folder: Path) -> SparCodeReport:
    """The report of finished tables."""
    plain = json.loads((folder / REPORT).read_text())
    return SparCodeReport(**{**plain, "curve": tuple(CurvePoint(**point) for point in plain["curve"])})


TOKENIZER, CODEBOOK, POSTINGS = "user_tokenizer.tflite", "codebook.npy", "postings"


@dataclass(frozen=True)
class CurvePoint:
    """One choice of the controlled bias: how large the tables are, and how much of the full score they find."""

    bias: float
    """What is added to a score before it is cut at 0."""
    size_bytes: int
    """Of the posting lists."""
    recall: float
    """Share of the best k by all scores of the codes that the lists find, mean over users."""


@dataclass(frozen=True)
class SparCodeReport:
    """How good the tables are and what they cost."""

    num_codes: int
    """Codes in the tables."""
    num_tokens: int
    """Tokens of users that were swept for them."""
    num_postings: int
    """Items in all lists."""
    size_bytes: int
    """Of the posting lists."""
    bias: float
    """What is added to a score before it is cut at 0."""
    cap: int
    """Most items in a list."""
    recall: float
    """Share of the best k by all scores of the codes that the lists find, mean over users."""
    k: int
    """Length of the compared lists."""
    num_queries: int
    """Users behind the recall."""
    build_seconds: float
    """Wall-clock time of scoring all codes."""
    curve: tuple[CurvePoint, ...]
    """Size against recall over the bias, the smallest tables first."""


@dataclass(frozen=True)
class SparCodeParts:
    """The parts, loaded and checked against each other."""

    tokenizer: ExportedTower
    """Inputs of the user tower -> [B, K_u D]."""
    codebook: Codebook
    """Tokens -> codes."""
    postings: Postings
    """Codes -> items with scores, mapped from the files."""

    @classmethod
    def open(cls, folder: Path, *, catalogue: str) -> SparCodeParts:
        """Reads the parts.

        Args:
            folder: That holds them.
            catalogue: Digest of the items of the rows (`serving.sparcode.postings.catalogue_digest`).

        Raises:
            ValueError: A file is damaged, or the lists are of another codebook or catalogue.
        """
        tokenizer, codebook = ExportedTower(folder / TOKENIZER), Codebook.load(folder / CODEBOOK)
        if tokenizer.dimension % codebook.width:
            raise ValueError(
                f"{folder / TOKENIZER}: gives {tokenizer.dimension} numbers a user, expected a multiple of the "
                f"{codebook.width} of a code in {CODEBOOK}; take both from one fit"
            )
        postings = Postings.open(folder / POSTINGS, codebook=codebook, catalogue=catalogue)
        return cls(tokenizer, codebook, postings)

    @property
    def num_tokens(self) -> int:
        """K_u."""
        return self.tokenizer.dimension // self.codebook.width

    def retriever(self) -> SparCode:
        """The retriever over these parts."""
        from serving.sparcode.retriever import SparCode

        return SparCode(codebook=self.codebook, postings=self.postings, num_tokens=self.num_tokens)


FOLDER = "sparcode"
ITEM_TOKENIZER, INTERACTION, SHAPE = "item_tokenizer.tflite", "interaction.npz", "sparcode.json"


@dataclass(frozen=True)
class Shape:
    """Numbers of a fitted model.

    Attributes:
        width: D.
        num_user_tokens: K_u.
        num_item_tokens: K_c.
        bias: The learned bias.
    """

    width: int
    num_user_tokens: int
    num_item_tokens: int
    bias: float


def read_shape(model: Path) -> Shape:
    """The numbers of the SparCode in a model's folder."""
    return Shape(**json.loads((model / FOLDER / SHAPE).read_text()))
