"""Fit SparCode over towers of ids, which stay as they are; and what both retrieve from the same catalogue."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy import sparse

from artefacts.console import console, progress
from features.sources.lightgcn import Pairs
from serving.retrieval import exact
from serving.retrieval.ranking import Rows
from serving.sparcode import all_to_all, interactions
from serving.sparcode.codebook import Codebook
from towers.quantizer import ProductQuantizer
from towers.scorer import MlpInteraction
from towers.sparcode import SparCode
from towers.tokenizer import tokenizers
from training.config import SparCodeConfig
from training.published.id_sparcode import (
    frozen_towers,
    history_vectors,
    item_inputs,
    pair_batches,
    unit_vectors,
    user_inputs,
)
from training.sparcode import SparCodeModel, adam
from training.trainer import EpochMetrics, embed, fit, make_deterministic

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
HISTORY_LENGTH = 50
# What is not chosen is as in the daily job, less what a step's cost grows with: candidates and hidden units.
FIXED = SparCodeConfig(num_uniform=256, hidden_units=8)


@dataclass(frozen=True)
class IdTowers:
    """Fitted towers, and what they were fitted on.

    Attributes:
        users: [U, D] float32 query vectors.
        items: [N, D] float32.
        pairs: What they were fitted on; masked when searching.
        temperature: What their inner products were divided by.
    """

    users: Floats
    items: Floats
    pairs: Pairs
    temperature: float

    def known(self, users: Ints) -> sparse.csr_array:
        """What must not be found for some users: [n, N]."""
        pairs, shape = self.pairs, (len(self.users), len(self.items))
        return sparse.csr_array((np.ones(len(pairs), bool), (pairs.users, pairs.items)), shape=shape)[users]


@dataclass(frozen=True)
class Choice:
    """What is chosen of SparCode.

    Attributes:
        parts: M.
        codes: Rows of each part's codebook.
        interest_tokens: Tokens of a user made by attention over the history.
        scale: Of the first scores, in units of the towers' inner products over their temperature.
        epochs: Passes over the pairs; 0 leaves the towers as they are, with codes instead of the users' tokens.
    """

    parts: int
    codes: int
    interest_tokens: int
    scale: float
    epochs: int


def fit_over(
    towers: IdTowers,
    choice: Choice,
    *,
    seed: int,
    title: str,
    look: Callable[[SparCode], EpochMetrics] = lambda fitted: {},
) -> SparCode:
    """Fits SparCode on the pairs of the towers.

    Args:
        towers: What it stands on.
        choice: How.
        seed: Of first values, order and negatives.
        title: What is fitted, for people.
        look: Measures the model before the first epoch and after each.
    """
    make_deterministic(seed)
    sparcode = _build(towers, choice, seed=seed)
    sparcode.quantizer.start(_tokens(sparcode, towers, np.arange(len(towers.users))).reshape(-1, sparcode.width))
    look(sparcode)
    model = SparCodeModel(sparcode, log_q=FIXED.log_q, commit_weight=FIXED.commitment, estimator=FIXED.estimator)
    batches_of = pair_batches(
        towers.pairs,
        num_users=len(towers.users),
        num_items=len(towers.items),
        history_length=HISTORY_LENGTH,
        batch_size=FIXED.batch_size,
        num_uniform=FIXED.num_uniform,
        seed=seed,
    )

    def measured(fitted: SparCode) -> EpochMetrics:
        usage = model.usage
        for warning in usage.warnings():
            console().print(f"[yellow]warning[/] {warning}")
        return {**usage.metrics(), **look(fitted)}

    total = choice.epochs * max(1, round(len(towers.pairs) / FIXED.batch_size))
    with tempfile.TemporaryDirectory() as folder, progress(f"SparCode on {title}", total=total) as advance:
        fit(
            model,
            choice.epochs,
            batches_of=batches_of,
            optimizer=adam(FIXED.learning_rate),
            folder=Path(folder),
            look=measured,
            on_step=lambda loss: advance(1),
        )
    return sparcode


def search_towers(towers: IdTowers, users: Ints, *, k: int) -> Rows:
    """The towers' lists for some users: [n, k] int32."""
    return exact.search(towers.users[users], towers.items, k=k, exclude=towers.known(users))[0]


def search_sparcode(sparcode: SparCode, towers: IdTowers, users: Ints, *, k: int) -> Rows:
    """SparCode's lists for some users, by all scores of their codes: [n, k] int32."""
    ranked, _ = all_to_all.search(
        _tokens(sparcode, towers, users),
        embed(sparcode.item_tokenizer, item_inputs(len(towers.items))),
        interaction=interactions.MlpInteraction(**sparcode.interaction.arrays()),
        bias=float(sparcode.bias),
        codebook=Codebook(sparcode.quantizer.codebooks.numpy()),
        k=k,
        exclude=towers.known(users),
    )
    return ranked


def _build(towers: IdTowers, choice: Choice, *, seed: int) -> SparCode:
    users, items = unit_vectors(towers.users, towers.items)
    # The next multiple of the number of parts, so that any vector can be cut.
    width = -(-users.shape[1] // choice.parts) * choice.parts
    user_tokenizer, item_tokenizer = tokenizers(
        frozen_towers(users, items, history_length=HISTORY_LENGTH),
        history_vectors(items),
        num_head_tokens=FIXED.head_tokens,
        num_interest_tokens=choice.interest_tokens,
        num_item_tokens=FIXED.item_tokens,
        width=width,
    )
    quantizer = ProductQuantizer(
        num_parts=choice.parts,
        num_codes=choice.codes,
        width=width,
        decay=FIXED.decay,
        restart_below=FIXED.restart_below,
        seed=seed,
    )
    interaction = MlpInteraction(
        num_item_tokens=FIXED.item_tokens,
        width=width,
        hidden_units=FIXED.hidden_units,
        scale=_scale(towers, choice),
        seed=seed,
    )
    bias = tf.Variable(FIXED.initial_bias, name="bias", dtype=tf.float32)
    return SparCode(user_tokenizer, item_tokenizer, quantizer, interaction, bias, width)


def _scale(towers: IdTowers, choice: Choice) -> float:
    """Gives back the lengths that the vectors had, in equal parts to the tokens, whose scores are summed."""
    lengths = np.linalg.norm(towers.users, axis=1).mean() * np.linalg.norm(towers.items, axis=1).max()
    num_tokens = FIXED.head_tokens + choice.interest_tokens
    return float(choice.scale * lengths / towers.temperature / num_tokens)


def _tokens(sparcode: SparCode, towers: IdTowers, users: Ints) -> Floats:
    """Tokens of some users, side by side: [n, K_u D] float32."""
    inputs = user_inputs(towers.pairs, num_users=len(towers.users), history_length=HISTORY_LENGTH)
    return embed(sparcode.user_tokenizer, {name: values[users] for name, values in inputs.items()})
