"""Benchmark: SparCode over fitted id-only towers, chosen on a part of train's pairs and compared with those towers.

The towers stay as they are, and both retrieve from the same catalogue:

    u' = [ u / |u| ; 0 ],   v' = [ v / c ; sqrt(1 - |v / c|^2) ],   c  length of the longest v

Both have length one, as tokens have, and <u', v'> = <u, v> / (|u| c): a user's items keep their order.

Model rows are those of arrays plus one; row 0 is the padding of a history.

Shape letters: U users, N items, P pairs, T history length, D vector width.

Source: the extra coordinate, Bachrach et al., RecSys 2014.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras
from scipy import sparse

from artefacts.console import console, progress
from evaluation.metrics import find_hits, ndcg_at_k, recall_at_k
from features.columns import ITEM_ID, USER_ID
from features.encoding import HISTORY, Inputs
from features.sources.lightgcn import Pairs
from serving.retrieval import exact
from serving.retrieval.ranking import Rows
from serving.sparcode import all_to_all, interactions
from serving.sparcode.codebook import Codebook
from towers.quantizer import ProductQuantizer
from towers.sparcode import MlpInteraction, SparCode
from towers.tokenizer import tokenizers
from towers.two_tower import TwoTower
from training.config import SparCodeFitConfig
from training.data.batches import Batch, BatchPlan, Span, epoch_batches
from training.epochs import EpochMetrics
from training.fit_loop import fit
from training.fit_sparcode import SparCodeModel, adam
from training.negatives.even_draws import uniform
from training.negatives.known_positives import KnownPositives
from training.trainer import embed, make_deterministic

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
HISTORY_LENGTH = 50
# What is not chosen is as in the daily job, less what a step's cost grows with: candidates and hidden units.
FIXED = SparCodeFitConfig(num_uniform=256, hidden_units=8)
Figures = dict[str, float]
K, LONGEST = 20, 50
MOST_EPOCHS = 2


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
    evaluate: Callable[[SparCode], EpochMetrics] = lambda fitted: {},
) -> SparCode:
    """Fits SparCode on the pairs of the towers.

    Args:
        towers: Below the tokens.
        choice: How.
        seed: Of first values, order and negatives.
        title: What is fitted, for people.
        evaluate: Measures the model before the first epoch and after each.
    """
    make_deterministic(seed)
    sparcode = _build(towers, choice, seed=seed)
    sparcode.quantizer.start(_tokens(sparcode, towers, np.arange(len(towers.users))).reshape(-1, sparcode.width))
    evaluate(sparcode)
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
        return {**usage.metrics(), **evaluate(fitted)}

    total = choice.epochs * max(1, round(len(towers.pairs) / FIXED.batch_size))
    with tempfile.TemporaryDirectory() as folder, progress(f"SparCode on {title}", total=total) as advance:
        fit(
            model,
            choice.epochs,
            batches_of=batches_of,
            optimizer=adam(FIXED.learning_rate),
            folder=Path(folder),
            evaluate=measured,
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


def unit_vectors(user_vectors: Floats, item_vectors: Floats) -> tuple[Floats, Floats]:
    """Brings both sides to length one, so that each user ranks items as before.

    Args:
        user_vectors: [U, D] float32, none of them zero.
        item_vectors: [N, D] float32, not all of them zero.

    Returns:
        [U, D + 1] and [N, D + 1] float32.
    """
    users = user_vectors / np.linalg.norm(user_vectors, axis=1, keepdims=True)
    items = item_vectors / np.linalg.norm(item_vectors, axis=1).max()
    missing = np.sqrt(np.maximum(1.0 - np.square(items).sum(axis=1, keepdims=True), 0.0))
    return np.pad(users, ((0, 0), (0, 1))), np.concatenate([items, missing], axis=1)


def frozen_towers(user_vectors: Floats, item_vectors: Floats, *, history_length: int) -> TwoTower:
    """Towers that look a vector up by its row, and are given a history for those who read it.

    Args:
        user_vectors: [U, D] float32.
        item_vectors: [N, D] float32.
        history_length: T.
    """
    user, item = (tf_keras.Input(shape=(), dtype="int32", name=name) for name in (USER_ID, ITEM_ID))
    history = tf_keras.Input(shape=(history_length,), dtype="int32", name=HISTORY)
    return TwoTower(
        user=tf_keras.Model({USER_ID: user, HISTORY: history}, _lookup(user_vectors, user), name="user_tower"),
        item=tf_keras.Model({ITEM_ID: item}, _lookup(item_vectors, item), name="item_tower"),
    )


def history_vectors(item_vectors: Floats) -> Floats:
    """What a user's history is read as: items without their missing length, which is 0 on the side of users.

    Args:
        item_vectors: [N, D + 1] float32, from `unit_vectors`.

    Returns:
        [N + 1, D + 1] float32, zeros in row 0.
    """
    return np.pad(item_vectors[:, :-1], ((1, 0), (0, 1)))


def user_inputs(pairs: Pairs, *, num_users: int, history_length: int) -> Inputs:
    """Model inputs of all users: their rows [U] int32, and their latest items [U, T] int32, the last one first."""
    latest = _latest(pairs, num_users=num_users, length=history_length)
    return {USER_ID: np.arange(1, num_users + 1, dtype=np.int32), HISTORY: latest}


def item_inputs(num_items: int) -> Inputs:
    """Model inputs of all items: their rows [N] int32."""
    return {ITEM_ID: np.arange(1, num_items + 1, dtype=np.int32)}


def examples(pairs: Pairs, *, num_users: int, num_items: int, history_length: int) -> Span:
    """Each pair as an example, whose history is the user's latest other items.

    Args:
        pairs: What is fitted.
        num_users: U.
        num_items: N; even draws are made from all of them.
        history_length: T.
    """
    longer = _latest(pairs, num_users=num_users, length=history_length + 1)[pairs.users]
    is_later = np.arange(history_length) < pairs.from_last[:, None]
    catalogue = item_inputs(num_items)
    return Span(
        users={
            USER_ID: (pairs.users + 1).astype(np.int32),
            HISTORY: np.where(is_later, longer[:, :-1], longer[:, 1:]),
        },
        items=catalogue,
        uniform=catalogue,
        user_row=np.arange(len(pairs)),
        item_row=pairs.items,
        weight=np.ones(len(pairs), np.float32),
    )


def pair_batches(
    pairs: Pairs,
    *,
    num_users: int,
    num_items: int,
    history_length: int,
    batch_size: int,
    num_uniform: int,
    seed: int,
) -> Callable[[int], Iterator[Batch]]:
    """Batches of an epoch, by its number, as `training.data.batches.batches` makes them.

    Args:
        pairs: What is fitted; also masked as negatives of its users.
        num_users: U.
        num_items: N.
        history_length: T.
        batch_size: Pairs of a batch, about; their items are each other's negatives.
        num_uniform: Items drawn evenly for each batch.
        seed: Of order and negatives.
    """
    span = examples(pairs, num_users=num_users, num_items=num_items, history_length=history_length)
    plan = BatchPlan(
        batch_size=batch_size,
        in_batch=True,
        queue_size=0,
        sources=[uniform(num=num_uniform)],
        known=KnownPositives.of(pairs.users + 1, pairs.items + 1, num_user_rows=num_users + 1),
        num_item_rows=num_items + 1,
        catalogue_size=num_items,
        correct=True,
        frequency=None,
    )
    return lambda epoch: epoch_batches([span], plan, seed=[seed, epoch])


def _latest(pairs: Pairs, *, num_users: int, length: int) -> Rows:
    """The model rows of each user's latest items, the last one first, 0 behind them: [U, length]."""
    rows = np.zeros((num_users, length), np.int32)
    is_latest = pairs.from_last < length
    rows[pairs.users[is_latest], pairs.from_last[is_latest]] = pairs.items[is_latest] + 1
    return rows


def _lookup(vectors: Floats, rows: tf.Tensor) -> tf.Tensor:
    table = np.pad(vectors, ((1, 0), (0, 0)))
    initial = tf_keras.initializers.Constant(table)
    return tf_keras.layers.Embedding(*table.shape, embeddings_initializer=initial, trainable=False)(rows)


FIRST = Choice(parts=4, codes=256, interest_tokens=0, scale=1.0, epochs=0)
# One after the other, each on top of the best so far. Eight parts of 256 codes would have no number of 63 bits.
CHANGES: tuple[dict[str, Any], ...] = (
    {"parts": 8, "codes": 128},
    {"interest_tokens": 3},
    {"scale": 0.5},
    {"scale": 2.0},
)


@dataclass(frozen=True)
class Trial:
    """A choice, and how good it is on held-out pairs of train.

    Attributes:
        choice: With the number of epochs after which it was measured.
        recall: At `K`.
    """

    choice: Choice
    recall: float


def benchmark_sparcode(
    of_part: IdTowers, of_all: IdTowers, *, held_out: Pairs, test: Pairs, seed: int
) -> dict[str, Any]:
    """Chooses over towers of a part of train, fits over those of all of it, and evaluates both models once on test.

    Args:
        of_part: Towers fitted on a part of train.
        of_all: Towers fitted on all of train in the same way.
        held_out: Pairs of the rest of train.
        test: Pairs to be found.
        seed: Of every fit.

    Returns:
        What the JSON file holds in addition to the figures of towers alone.
    """
    begin = time.perf_counter()
    trials = choose(of_part, held_out, seed=seed)
    best = max(trials, key=lambda trial: trial.recall).choice
    sparcode = fit_over(of_all, best, seed=seed, title="all of train")
    users = np.unique(test.users)
    ranked = {
        "two-tower": search_towers(of_all, users, k=LONGEST),
        "SparCode": search_sparcode(sparcode, of_all, users, k=LONGEST),
    }
    found = {name: figures(lists, test, num_items=len(of_all.items)) for name, lists in ranked.items()}
    for name, numbers in found.items():
        console().print(f"{name:<9}  " + "  ".join(f"{figure} {number:.4f}" for figure, number in numbers.items()))
    return {
        f"recall@{LONGEST}": found["two-tower"][f"recall@{LONGEST}"],
        "sparcode": {
            **found["SparCode"],
            "choice": asdict(best),
            "total_seconds": time.perf_counter() - begin,
            "trials": [{**asdict(trial.choice), f"recall@{K}": trial.recall} for trial in trials],
        },
    }


def choose(towers: IdTowers, held_out: Pairs, *, seed: int) -> list[Trial]:
    """Fits one choice after the other, and measures each after every number of epochs.

    Args:
        towers: Fitted on pairs that are not held out.
        held_out: Pairs that decide.
        seed: Of every fit.
    """
    trials: list[Trial] = []
    users = np.unique(held_out.users)

    def attempt(choice: Choice) -> None:
        begin = time.perf_counter()
        recalls: list[float] = []

        def evaluate(fitted: SparCode) -> EpochMetrics:
            ranked = search_sparcode(fitted, towers, users, k=LONGEST)
            found = figures(ranked, held_out, num_items=len(towers.items))
            recalls.append(found[f"recall@{K}"])
            return found

        fit_over(towers, replace(choice, epochs=MOST_EPOCHS), seed=seed, title="a part of train", evaluate=evaluate)
        trials.extend(Trial(replace(choice, epochs=epochs), recall) for epochs, recall in enumerate(recalls))
        console().print(
            f"  SparCode: {choice.parts} parts of {choice.codes} codes, {choice.interest_tokens} interest tokens, "
            f"scale {choice.scale:g}: recall@{K} {', '.join(f'{recall:.4f}' for recall in recalls)} on held-out train "
            f"pairs after 0 to {MOST_EPOCHS} epochs ({time.perf_counter() - begin:.0f} s)"
        )

    attempt(FIRST)
    for change in CHANGES:
        attempt(replace(max(trials, key=lambda trial: trial.recall).choice, **change))
    return trials


def figures(ranked: Rows, relevant: Pairs, *, num_items: int) -> Figures:
    """Means over the users with relevant pairs.

    Args:
        ranked: [n, LONGEST] int32, a list for each of those users, in the order of their rows.
        relevant: To be found; every one counts in the denominator.
        num_items: N.
    """
    users = np.unique(relevant.users)
    shape = (int(users[-1]) + 1, num_items)
    wanted = sparse.csr_array((np.ones(len(relevant), bool), (relevant.users, relevant.items)), shape=shape)
    found = find_hits(ranked, wanted[users])
    return {
        f"recall@{K}": float(recall_at_k(found, K).mean()),
        f"ndcg@{K}": float(ndcg_at_k(found, K).mean()),
        f"recall@{LONGEST}": float(recall_at_k(found, LONGEST).mean()),
    }
