"""What does a fitted SparCode leave in the model's folder? Names alone, so that jobs read them without TensorFlow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

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
