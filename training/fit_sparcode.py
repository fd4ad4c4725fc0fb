"""Fit of SparCode on the days of a phase, over fitted towers, its loss, and its export for the jobs and the server.

The loss is the sampled softmax over its scores, while codebooks follow the tokens:

    loss = sampled softmax( sum_k relu(S_k + b) - log q ) + lambda sum_k || t_k - stop(q_k) ||^2

Shape letters: B rows of a batch, C candidates in it, K_u tokens of a user, D width of a token, M parts, N codes.

Source: Su et al. (SparCode), SIGIR 2023, section 3.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras

from artefacts.console import console, progress
from artefacts.files import json_text
from features.encoding import Encoder, Inputs
from serving.sparcode import interactions as serving_interactions
from serving.sparcode.codebook import Codebook
from serving.sparcode.files import CODEBOOK, INTERACTION, ITEM_TOKENIZER, SHAPE, TOKENIZER, Shape
from serving.sparcode.interactions import save_interaction
from towers.factor_token import FactorToken, rest_tower
from towers.quantizer import ProductQuantizer
from towers.sparcode import Estimator, Interaction, MlpInteraction, ProductInteraction, SparCode, commitment, passed_on
from towers.tokenizer import tokenizers
from towers.two_tower import TwoTower
from training.config import SparCodeFitConfig
from training.data.batches import ITEM_PREFIX, LOG_Q, MASK, USER_PREFIX, WEIGHT, Batch, BatchPlan, epoch_batches
from training.data.not_finite import cause_of
from training.data.training_data import TrainingData
from training.epochs import EpochMetrics
from training.export import export_tower
from training.fit import Fitted, Report, resumed
from training.fit_loop import fit
from training.held_out import WarmStart, state_file
from training.losses.objective import inputs_with_prefix, weighted_mean
from training.losses.softmax import SOFTMAX, LogQ
from training.negatives.even_draws import uniform
from training.trainer import embed, make_deterministic
from training.warm_start import carry_over, save_state, state_of

Floats = npt.NDArray[np.float64]
# Of the codes that there are: below it, most of a codebook is not used.
TOO_FEW = 0.1
# Of the examples: those whose own item scores 0 teach nothing, as relu has no gradient there.
TOO_MANY_ZEROS = 0.5
STATE = "sparcode"


class SparCodeModel(tfrs.Model):  # type: ignore[misc]
    """SparCode and its loss; `training.fit_loop.fit` takes it.

    Args:
        sparcode: What is fitted; its quantizer has been started.
        log_q: Correction of the sampling bias, one of `training.losses.softmax.SOFTMAX`.
        commit_weight: lambda.
        estimator: How a gradient passes the quantizer.

    Raises:
        ValueError: There is no such correction.
    """

    def __init__(self, sparcode: SparCode, *, log_q: LogQ, commit_weight: float, estimator: Estimator) -> None:
        """Takes the model."""
        super().__init__()
        if log_q not in SOFTMAX:
            raise ValueError(f"log_q is {log_q!r}, expected one of: {', '.join(SOFTMAX)}")
        self.user_tokenizer, self.item_tokenizer = sparcode.user_tokenizer, sparcode.item_tokenizer
        self.quantizer, self.interaction, self.bias = sparcode.quantizer, sparcode.interaction, sparcode.bias
        # In a function: Keras would look into it for weights, and find the towers that are frozen.
        self._sparcode: Callable[[], SparCode] = lambda: sparcode
        self._softmax, self._commit_weight, self._estimator = SOFTMAX[log_q], commit_weight, estimator
        shape = (sparcode.quantizer.num_parts, sparcode.quantizer.num_codes)
        self.counts = tf.Variable(tf.zeros(shape), trainable=False, name="counts")
        self.zeros = tf.Variable(tf.zeros([2]), trainable=False, name="zeros")

    @property
    def fitted(self) -> SparCode:
        """The model as it is now."""
        return self._sparcode()

    def begin_epoch(self) -> None:
        """Forgets how codes were used."""
        for counter in (self.counts, self.zeros, self.quantizer.restarts):
            counter.assign(tf.zeros_like(counter))

    @property
    def usage(self) -> CodeUsage:
        """How codes were used since the epoch began."""
        rows, zeros = self.zeros.numpy().tolist()
        return CodeUsage(
            self.counts.numpy().astype(np.float64), int(self.quantizer.restarts), zeros / max(rows, 1), float(self.bias)
        )

    def compute_loss(self, inputs: Batch, training: bool = False) -> tf.Tensor:
        """Loss of a batch as `training.data.batches.batches` makes it, without private negatives or a queue: []."""
        batch = {name: tf.convert_to_tensor(values) for name, values in inputs.items()}
        sparcode = self.fitted
        tokens = sparcode.user_tokens(inputs_with_prefix(batch, USER_PREFIX), training=training)
        items = sparcode.item_tokens(inputs_with_prefix(batch, ITEM_PREFIX), training=training)
        codes = self.quantizer.codes(tokens)
        quantised = self.quantizer.decode(codes)
        scores = sparcode.scores(passed_on(tokens, quantised, self._estimator), items)
        losses = self._softmax(scores, batch[LOG_Q], mask=batch[MASK])
        if training:
            self.quantizer.update(tokens, codes)
            self._count(codes, tf.linalg.diag_part(scores))
        return weighted_mean(losses + self._commit_weight * commitment(tokens, quantised), batch[WEIGHT])

    def _count(self, codes: tf.Tensor, own: tf.Tensor) -> None:
        num_parts, num_codes = self.counts.shape
        rows = tf.reshape(codes, [-1, num_parts]) + num_codes * tf.range(num_parts)
        total = num_parts * num_codes
        found = tf.math.bincount(tf.reshape(rows, [-1]), minlength=total, maxlength=total, dtype=tf.float32)
        self.counts.assign_add(tf.reshape(found, [num_parts, num_codes]))
        num_zeros = tf.reduce_sum(tf.cast(own <= 0, tf.float32))
        self.zeros.assign_add(tf.stack([tf.cast(tf.size(own), tf.float32), num_zeros]))


def adam(learning_rate: float) -> tf_keras.optimizers.Optimizer:
    """Adam, for a model all of whose weights move at every step."""
    return tf_keras.optimizers.legacy.Adam(learning_rate)


@dataclass(frozen=True)
class CodeUsage:
    """How the tokens of an epoch were quantised.

    Attributes:
        counts: [M, N] float64, tokens of each code of each part.
        num_restarts: Dead codes that were put elsewhere.
        zero_share: Share of the examples whose own item scored 0.
        bias: b at the end of the epoch.
    """

    counts: Floats
    num_restarts: int
    zero_share: float
    bias: float

    @property
    def perplexity(self) -> Floats:
        """Exp of the entropy of each part's codes, between 1 and N: as many as if all were used alike: [M]."""
        shares = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        logs = np.log(np.where(shares > 0, shares, 1.0))
        return np.asarray(np.exp(-(shares * logs).sum(axis=1)))

    @property
    def num_used(self) -> npt.NDArray[np.int64]:
        """Codes of each part that any token fell into: [M]."""
        return np.asarray((self.counts > 0).sum(axis=1))

    def metrics(self) -> dict[str, float]:
        """Figures for the log; of the parts, the worst."""
        return {
            "perplexity": float(self.perplexity.min()),
            "codes_in_use": float(self.num_used.min()),
            "restarted_codes": float(self.num_restarts),
            "zero_share": self.zero_share,
            "bias": self.bias,
        }

    def warnings(self) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        num_codes, found = self.counts.shape[1], []
        for part, (perplexity, used) in enumerate(zip(self.perplexity, self.num_used, strict=True)):
            if perplexity < max(TOO_FEW * num_codes, 2.0):
                found.append(
                    f"the codebook of part {part} has collapsed: {used} of {num_codes} codes are in use, with a "
                    f"perplexity of {perplexity:.1f}. Lower sparcode.commitment or sparcode.learning_rate, or raise "
                    "sparcode.restart_below"
                )
        if self.zero_share > TOO_MANY_ZEROS:
            found.append(
                f"{self.zero_share:.0%} of the examples score 0 for their own item and teach nothing: the bias is "
                f"{self.bias:.2f}. Raise sparcode.initial_bias"
            )
        return found


def fit_sparcode(
    encoder: Encoder,
    data: TrainingData,
    *,
    settings: SparCodeFitConfig,
    backbone: Fitted,
    temperature: float,
    seed: int,
    users: Inputs,
    items: Inputs,
    folder: Path,
    unfinished: Path,
    checkpoint_every_minutes: float | None,
    evaluate: Callable[[SparCode], EpochMetrics] | None,
    report: Report,
    warm: WarmStart | None = None,
    context_dropout: float = 0.0,
) -> tuple[SparCode, list[EpochMetrics]]:
    """Fits SparCode over towers, which stay as they are.

    Args:
        encoder: The dataset's encoder.
        data: What is fitted.
        settings: How.
        backbone: Fitted towers; frozen, in place. What is appended to their learned vectors becomes a token of its own.
        temperature: What the towers' scores were divided by.
        seed: Of every choice at random.
        users: Model inputs of all users at the phase's moment, by row of the canonical tables.
        items: Likewise of all items.
        folder: Gets the state that a later fit starts from.
        unfinished: Gets checkpoints and logs; a fit that was killed resumes from those that are there.
        checkpoint_every_minutes: How often the fit is saved; None saves nothing.
        evaluate: Measures the model before the first epoch and after each; None measures nothing.
        report: Called after each epoch.
        warm: The state that the fit starts from; None starts from random values.
        context_dropout: Share of the examples whose event columns are made missing.

    Returns:
        The model, and what `evaluate` found: before the first epoch, then after each.
    """
    make_deterministic(seed)
    width = _token_width(backbone, num_parts=settings.parts)
    sparcode = _build(settings, encoder, backbone.learned, items, width=width, seed=seed)
    join = _with_factors(settings, backbone, users, width=width, temperature=temperature, seed=seed)
    model = SparCodeModel(
        sparcode, log_q=settings.log_q, commit_weight=settings.commitment, estimator=settings.estimator
    )
    plan, optimizer = _plan(settings, encoder, data, context_dropout=context_dropout), adam(settings.learning_rate)
    # The towers below the tokens are today's; tokens, codes and net start from where they were.
    carried = {"": [*model.trainable_variables, *sparcode.quantizer.variables]}
    if warm is None:
        sparcode.quantizer.start(embed(sparcode.user_tokenizer, users).reshape(-1, sparcode.width))
    else:
        carry_over(warm.state(STATE), warm.growth, carried, optimizer)

    def evaluated(fitted: SparCode) -> EpochMetrics:
        return {} if evaluate is None else evaluate(join(_refitted(fitted, users)))

    before, title = evaluated(sparcode), f"{data.name} sparcode"
    steps = settings.epochs * max(1, round(int(data.item_counts.sum()) / settings.batch_size))
    with progress(f"training ({title})", total=steps) as advance:
        reports = fit(
            model,
            settings.epochs,
            batches_of=lambda epoch: epoch_batches(data.load_all(), plan, seed=[seed, epoch]),
            optimizer=optimizer,
            folder=unfinished / f"{data.name}-sparcode",
            evaluate=lambda fitted: {**_metrics(model.usage), **evaluated(fitted)},
            on_step=lambda loss: advance(1),
            on_epoch=lambda epoch_report: report(title, epoch_report),
            on_resume=lambda at: resumed(title, at, advance),
            checkpoint_every_minutes=checkpoint_every_minutes,
            saved={"quantizer": sparcode.quantizer},
            cause_of=lambda batch: cause_of(batch, encoder),
        )
    save_state(state_of(carried, optimizer), state_file(folder, STATE))
    return join(_refitted(sparcode, users)), [before, *(one.metrics for one in reports)]


def _metrics(usage: CodeUsage) -> EpochMetrics:
    """Of an epoch, after its warnings."""
    for warning in usage.warnings():
        console().print(f"[yellow]warning[/] {warning}")
    return usage.metrics()


def _token_width(backbone: Fitted, *, num_parts: int) -> int:
    """Learned coordinates and what is appended to them are cut alike: the next multiple of the number of parts."""
    learned, whole = (int(towers.item.output.shape[-1]) for towers in (backbone.learned, backbone.towers))
    return -(-max(learned, whole - learned) // num_parts) * num_parts


def _refitted(sparcode: SparCode, users: Inputs) -> SparCode:
    """The model with codebooks refitted by k-means to the tokens of all users.

    The moving averages follow the examples, half of which are of a few users; tables are for each user alike.
    """
    quantizer = sparcode.quantizer.like()
    quantizer.start(embed(sparcode.user_tokenizer, users).reshape(-1, sparcode.width))
    return replace(sparcode, quantizer=quantizer)


def export_sparcode(sparcode: SparCode, folder: Path) -> None:
    """Writes what the jobs and the server need, none of it TensorFlow's.

    Args:
        sparcode: The fitted model.
        folder: Made here; gets tokenizers, codebook, interaction and shape.
    """
    folder.mkdir(parents=True)
    export_tower(sparcode.user_tokenizer, folder / TOKENIZER)
    export_tower(sparcode.item_tokenizer, folder / ITEM_TOKENIZER)
    Codebook(sparcode.quantizer.codebooks.numpy()).save(folder / CODEBOOK)
    save_interaction(folder / INTERACTION, _kind(sparcode.interaction), sparcode.interaction.arrays())
    shape = Shape(sparcode.width, sparcode.num_user_tokens, sparcode.num_item_tokens, float(sparcode.bias))
    (folder / SHAPE).write_text(json_text(asdict(shape), indent=2))


def interaction_of(sparcode: SparCode) -> serving_interactions.Interaction:
    """The model's interaction net, without TensorFlow."""
    kind = serving_interactions.INTERACTIONS[_kind(sparcode.interaction)]
    return kind(**sparcode.interaction.arrays())


def _kind(interaction: Interaction) -> Literal["mlp", "product"]:
    return "mlp" if isinstance(interaction, MlpInteraction) else "product"


def _build(
    settings: SparCodeFitConfig, encoder: Encoder, backbone: TwoTower, items: Inputs, *, width: int, seed: int
) -> SparCode:
    vectors = embed(backbone.item, items)
    table: npt.NDArray[np.float32] = np.zeros((encoder.item_ids.num_table_rows, vectors.shape[1]), np.float32)
    table[1 : len(vectors) + 1] = vectors
    user_tokenizer, item_tokenizer = tokenizers(
        backbone,
        table,
        num_head_tokens=settings.head_tokens,
        num_interest_tokens=settings.interest_tokens,
        num_item_tokens=settings.item_tokens,
        width=width,
    )
    quantizer = ProductQuantizer(
        num_parts=settings.parts,
        num_codes=settings.codes,
        width=width,
        decay=settings.decay,
        restart_below=settings.restart_below,
        seed=seed,
    )
    bias = tf.Variable(settings.initial_bias, name="bias", dtype=tf.float32)
    return SparCode(user_tokenizer, item_tokenizer, quantizer, _interaction(settings, width, seed), bias, width)


def _with_factors(
    settings: SparCodeFitConfig, backbone: Fitted, users: Inputs, *, width: int, temperature: float, seed: int
) -> Callable[[SparCode], SparCode]:
    """Appends what is appended to the learned vectors, if anything, to their tokens."""
    learned_width = int(backbone.learned.item.output.shape[-1])
    if int(backbone.towers.item.output.shape[-1]) == learned_width:
        return lambda learned: learned
    token = FactorToken.of(
        backbone.towers,
        embed(rest_tower(backbone.towers, learned_width=learned_width, width=width), users),
        learned_width=learned_width,
        scale=1.0 / temperature,
        num_parts=settings.parts,
        num_codes=settings.codes,
        seed=seed,
    )
    return token.append_to


def _interaction(settings: SparCodeFitConfig, width: int, seed: int) -> Interaction:
    num_tokens, scale = settings.item_tokens, settings.scale
    if settings.interaction == "product":
        return ProductInteraction(num_item_tokens=num_tokens, width=width, scale=scale)
    return MlpInteraction(
        num_item_tokens=num_tokens, width=width, hidden_units=settings.hidden_units, scale=scale, seed=seed
    )


def _plan(settings: SparCodeFitConfig, encoder: Encoder, data: TrainingData, *, context_dropout: float) -> BatchPlan:
    return BatchPlan(
        batch_size=settings.batch_size,
        in_batch=True,
        queue_size=0,
        sources=[uniform(num=settings.num_uniform)],
        known=data.known,
        num_item_rows=len(encoder.item_ids),
        catalogue_size=len(encoder.item_ids) - 1,
        correct=settings.log_q != "none",
        frequency=None,
        context_dropout=context_dropout,
    )
