"""Configuration of the towers and of how they are fitted, and what each method needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from artefacts.config import Section, as_tuple, read
from features.config import AnySource
from features.schema import Schema

Setting = bool | int | float | str
"""A value of the configuration that an entry of a registry takes as an argument."""


class DualAugmentedConfig(Section):
    """Dual augmented two-tower (DAT)."""

    user_weight: float = Field(0.5, ge=0)
    """Weight of the mimic loss of the users' augmented vectors."""
    item_weight: float = Field(0.5, ge=0)
    """Weight of the mimic loss of the items' augmented vectors."""
    category_alignment: float = Field(1.0, ge=0)
    """Weight of the category alignment loss, over dataset.item_category."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of the augmented vectors that are replaced by their fallback while training."""
    cold: Literal["zero", "category_mean"] = "category_mean"
    """What an id without training gets: nothing, or the mean of its category (items; users get the mean of all)."""


class CounterpartConfig(Section):
    """Generated counterpart features: each tower guesses the other side's features and reads its own guess."""

    user_fields: tuple[str, ...] = ()
    """User columns (categorical) that the item tower guesses."""
    item_fields: tuple[str, ...] = ()
    """Item columns (categorical) that the user tower guesses."""
    source: Literal["generated", "statistic"] = "generated"
    """Guessed by a layer that learns, or the shares observed so far among the other side's positives."""
    weight: float = Field(0.1, ge=0)
    """Weight of the guesses' cross-entropy on positives (beta), in the first epoch."""
    decay: float = Field(1.0, gt=0, le=1)
    """What the weight is multiplied by after each epoch."""


class InterestsConfig(Section):
    """Several interests: K vectors of a user, of which the best one counts for each item."""

    num: int = Field(4, ge=1, le=16)
    """Vectors of a user (K); 1 is the same as `interests: null`."""
    local_weight: float = Field(0.5, ge=0)
    """Weight of the local loss, which holds a user's vectors apart: each item is to pick one of them clearly."""
    local_temperature: float = Field(0.3, gt=0)
    """What the scores of a user's vectors are divided by in it."""


class TowerConfig(Section):
    """Shape of the two towers."""

    embedding_dim: int = Field(64, ge=2)
    """Width of all tables and of the learned vectors (D)."""
    factor_dim: int = Field(32, ge=0)
    """Co-purchase factors that are appended to the learned vector (F); 0 leaves them out."""
    factor_weight: float | None = Field(None, gt=0)
    """What the factors count compared with the learned vector; null chooses it by recall on the validation days of the
    last full fit, and takes 2 where there are none."""
    factor_powers: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(None, min_length=3, max_length=3)
    """How much less active users and popular items count in the factors, by the number of their pairs to the first two
    powers; the third is that of an item's length: 1 favours popular items as the data does, 0 ignores popularity. Null
    chooses [0, 0, 0.5] or [0.25, 0.3, 1] together with the weight, and takes the latter without validation days."""
    hidden_units: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Width of each hidden layer of a tower; none leaves the sum of its features as it is."""
    history_encoder: str = "mean"
    """How a user's history becomes one vector: `mean`, `attention` (the latest item and what it attends to), `gru`,
    `self_attention`, or another of `towers.history.HISTORY_ENCODERS`."""
    history_power: float = Field(0.5, ge=0, le=1)
    """Of `mean`: exponent of the length that a history is divided by: 1 is the mean of its items, 0 their sum."""
    history_decay_days: Annotated[tuple[Annotated[float, Field(gt=0)] | None, ...], BeforeValidator(as_tuple)] = Field(
        (None, 60.0, 7.0), min_length=1
    )
    """Of `mean`: times after which an item in the history counts 1/e, one for each of the means that are taken; null
    counts all alike."""
    history_settings: Mapping[str, Setting | tuple[float | None, ...] | None] = {}
    """Arguments of another encoder than `mean`: `length`, latest items that are read (null reads all); `means`,
    weighted means of the history that are put next to it, as history_decay_days, and `power`, as history_power; `heads`
    of `attention` and `self_attention`, and `blocks` and `dropout` of the latter."""
    last_place: bool | None = None
    """Whether the place of the latest item in the history is a feature of the user, where items have places; null makes
    it one of `geo` columns, and of `dataset.item_geo` none."""
    text_length: int = Field(32, ge=1)
    """Letter trigrams kept of a text (L)."""
    text_buckets: int = Field(4096, ge=2)
    """Hash buckets for letter trigrams."""
    head: Literal["residual", "mlp"] = "residual"
    """`residual` adds the hidden layers' output to the sum of the features; `mlp` lets them replace it."""
    activation: Literal["relu", "tanh"] = "relu"
    """Of the hidden layers, and of the output of an `mlp` head."""
    id_buckets: int = Field(0, ge=0)
    """Hash buckets that share out the ids which the tables do not know; 0 gives them one row together."""
    id_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the ids that are replaced by their bucket while training, so that buckets are trained too."""
    temperature: float = Field(0.1, gt=0)
    """Scores are divided by it before the softmax."""
    learn_temperature: bool = False
    """Whether the temperature is fitted too, from there on."""
    dual_augmented: DualAugmentedConfig | None = None
    """Augmented vectors that each tower learns from the other's output (DAT); null leaves them out."""
    counterpart: CounterpartConfig | None = None
    """Features of the other side that each tower guesses at its bottom layer; null leaves them out."""
    interests: InterestsConfig | None = None
    """Several vectors of a user, by attention over what the history encoder makes of each place; `mean` gives the items
    themselves, and its power and decays are not read. Null makes one vector."""

    @property
    def num_interests(self) -> int:
        """Vectors of a user (K)."""
        return 1 if self.interests is None else self.interests.num

    @property
    def history_arguments(self) -> dict[str, Any]:
        """What the history encoder is made of."""
        if self.history_encoder == "mean":
            return {"decay_days": self.history_decay_days, "power": self.history_power}
        return dict(self.history_settings)


class StreamingConfig(Section):
    """Streaming estimate of how often an item comes."""

    num_hashes: int = Field(3, ge=1)
    """Independent hashes; the smallest of their shares is taken."""
    num_buckets: int = Field(65_536, ge=2)
    """Cells of each hash."""
    rate: float = Field(0.05, gt=0, le=1)
    """How fast a new gap replaces the old mean (alpha); until 1/alpha gaps are seen, the mean is over all of them."""
    initial_gap: float = Field(100.0, gt=0)
    """Steps until an item that has come once is expected again (delta 0)."""


class NegativesConfig(Section):
    """Where negatives come from; any mix, with one q for all of it."""

    in_batch: bool = True
    """The other examples' items."""
    num_uniform: int = Field(512, ge=0)
    """Drawn evenly from the catalogue for each batch and shared by its rows (B')."""
    num_random: int = Field(0, ge=0)
    """Drawn evenly from the catalogue for each row alone, as in DSSM."""
    queue_size: int = Field(0, ge=0)
    """Items of the last batches, whose vectors are kept without gradient (Q)."""
    num_hard_in_batch: int = Field(0, ge=0, le=2)
    """The most similar other items of the batch, which count once more, in a margin loss of their own."""
    hard_margin: float = Field(0.1, gt=0)
    """By how much the own item's cosine is to exceed that of an in-batch hard negative."""
    easy_per_hard: float | None = Field(None, gt=0)
    """Easy negatives for each mined one, 100 in the paper; null takes no mined ones."""
    hard_weight: float | None = Field(1.0, gt=0)
    """What a mined item, or one that was shown, counts in the softmax, in easy ones of its row on average: with 1,
    easy_per_hard is a ratio of weights too. Null leaves it uncorrected: then it weighs far less than an even draw,
    which stands for many items. Not read without log_q."""
    mined_band: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (101, 500)
    """First and last rank of the mined items in the previous model's lists."""
    mined_per_user: int = Field(40, ge=1)
    """Items kept of the band for each user."""
    near_duplicate: float = Field(0.95, gt=0, le=1)
    """Cosine with one of the user's known positives from which a mined item is dropped."""
    impressions: Path | None = None
    """Parquet with user_id and item_id of what was shown and not clicked, or a server's folder of exposures; null has
    none."""
    num_impressions: int = Field(0, ge=0)
    """Of them for each row."""
    extra_sources: Mapping[str, Mapping[str, Setting]] = {}
    """Further sources of `training.negatives.NEGATIVE_SOURCES` by name, with their arguments."""


class MobiusConfig(Section):
    """MOBIUS: a relevance teacher marks pairs of the batch's cross join, the student learns three classes."""

    irrelevant_quantile: float = Field(0.5, gt=0, lt=1)
    """Share of the cross join that the teacher calls irrelevant."""
    bad_per_click: int = Field(1, ge=1)
    """Bad cases sampled for each click, in proportion to the student's pCTR."""
    unclick_per_click: int = Field(4, ge=1)
    """Relevant pairs without a click sampled for each click."""
    bad_weight: float = Field(1.0, ge=0)
    """What the bad class counts against the click class at retrieval (beta)."""


class TeacherConfig(Section):
    """A teacher of the towers: what the step `teach` makes its lists with."""

    teacher: Literal["ease", "item_knn"] | Path = "ease"
    """EASE, item-kNN, or a Parquet or CSV file of another ranker's scores: `user_id`, `item_id`, `score`, and
    `known_until` (or `day`), the moment before which the ranker knows events: scores count for examples from then on.
    """
    lists: int = Field(100, ge=2)
    """Items of a user's list that are kept: those with the highest scores (N)."""
    refresh_days: int = Field(30, ge=1)
    """Days after which the teacher is fitted again, on what happened before them, and its lists are made again."""


class DistillationConfig(TeacherConfig):
    """Distillation: the scores of a teacher are imitated on the candidates of a batch."""

    loss: Literal["kl", "reverse_kl", "margin_mse", "rank"] = "kl"
    """KL(teacher || towers) over the candidates, or the other way round; squared errors of margins; one minus the
    correlation."""
    weight: float = Field(3.0, ge=0)
    """What it counts next to the softmax; 0 leaves the teacher to `denoise_above`. Suits `kl`: `margin_mse` is some
    hundred times as large."""
    temperature: float = Field(0.5, gt=0)
    """The teacher's scores, in standard deviations of their list, are divided by it. Not read by `rank`."""
    denoise_above: float | None = Field(None, ge=0, lt=1)
    """Quantile of a user's list above which a mined negative is dropped: the teacher takes it for a positive. Null
    drops none."""


class LossConfig(Section):
    """A further term of the loss."""

    weight: float = Field(1.0, gt=0)
    """What it counts."""
    arguments: Mapping[str, Setting] = {}
    """What it is made of."""


class TrainingConfig(Section):
    """How the towers are fitted."""

    epochs: int = Field(6, ge=1)
    """Passes over the examples, at most: validation chooses how many; without validation days all of them are made."""
    patience: int = Field(1, ge=1)
    """Early stopping: epochs in a row without a better validation recall after which the validation fit ends."""
    batch_size: int = Field(1024, ge=2)
    """Examples per step (B), about: the examples of a span are cut into equal batches."""
    optimizer: Literal["adam", "adagrad"] = "adam"
    """What takes the steps; either touches only the rows of the tables that a batch has."""
    learning_rate: float = Field(0.003, gt=0)
    """Of the optimiser; Adagrad wants some thirty times as much as Adam."""
    learning_rate_decay: float = Field(1.0, gt=0, le=1)
    """What it is multiplied by after each epoch; 1 leaves it as it is."""
    user_balance: float = Field(0.0, ge=0, le=1)
    """Exponent of the number of a user's examples that each of them is divided by: 0 counts examples alike, 1 users."""
    log_q: Literal["none", "yi2019", "khrylchenko2025"] = "yi2019"
    """Correction of the sampling bias."""
    frequency: Literal["exact", "streaming"] = "exact"
    """How often items come: counted beforehand, or estimated while the batches pass."""
    streaming: StreamingConfig = StreamingConfig()
    """The streaming estimator; read only with `frequency: streaming`."""
    negatives: NegativesConfig = NegativesConfig()
    """What each example's own item is compared with."""
    reward: Literal["none", "reward", "value"] = "reward"
    """What an example counts: all alike, its reward, or its business value."""
    reward_power: float = Field(1.0, gt=0, le=1)
    """Exponent that tempers it."""
    mobius: MobiusConfig | None = None
    """Three-class training on click, unclick and bad pairs (MOBIUS) instead of the softmax; null leaves it out."""
    distillation: DistillationConfig | None = None
    """A teacher whose lists the towers imitate; null has none."""
    softmax_weight: float = Field(1.0, ge=0)
    """What the softmax counts, or the loss that takes its place with `mobius`; 0 leaves it to `extra_losses`."""
    extra_losses: Mapping[str, LossConfig] = {}
    """Further terms of the loss, of `training.losses.LOSSES` by name."""
    hard_model_weight: float | None = Field(None, gt=0)
    """With mined negatives: fit a model without them too, and append the mined one to it with this weight; null serves
    the mined one alone."""
    examples: Literal["all", "first_meetings"] = "first_meetings"
    """Which events are fitted: all, or those with which a user meets an item for the first time."""
    example_days: int = Field(730, ge=1)
    """Days before `as_of` that are fitted, at most: of those that features.example_days and example_events choose."""
    example_fade_days: float | None = Field(120.0, gt=0)
    """Age at which an example counts 1/e, within the span that is shuffled together, so that what users want now
    outweighs what they wanted; null has all ages count alike."""
    history_dropout: float = Field(0.3, ge=0, lt=1)
    """Share of the items of an example's history that are left out at random; the others close up."""
    context_dropout: float = Field(0.5, ge=0, le=1)
    """Share of the examples whose event columns (`dataset.event_columns`) are made missing, as in a request without
    them: nightly vectors are such."""
    item_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the items of a batch, drawn alike whether they are own items or negatives, that are described as they
    were without any event: statistics and the id row give way to what their content says. 0 learns no such state."""
    positions: int = Field(0, ge=0)
    """Latest items of each example's history that are found again, each from what came before it; 0 finds none."""
    position_weight: float = Field(1.0, gt=0)
    """What their softmax counts, by training.positions."""
    shuffle_days: int = Field(120, ge=1)
    """Days that are shuffled together; between such spans, time runs forward."""
    keep_in_memory: bool = True
    """Keep encoded examples between epochs; otherwise memory is that of one span."""
    validation_days: int = Field(7, ge=0)
    """Days before `as_of` on which epochs are compared, before the towers are fitted on all days; fewer than
    example_days. 0 compares nothing and fits once."""
    checkpoint_every_minutes: float = Field(10.0, ge=0)
    """How often a fit is saved within an epoch, and after each epoch besides: one that was killed resumes from there; 0
    saves it after each step. Several processes (`distribute`) save nothing."""
    distribute: Literal["none", "multi_worker"] = "none"
    """Whether one process fits, or those that the environment variable TF_CONFIG names, each a share of every batch."""


class SparCodeFitConfig(Section):
    """How SparCode is fitted: tokens of users and items, their codes, and what scores a code against an item."""

    head_tokens: int = Field(1, ge=1)
    """Tokens of a user made from the user vector; of several interests, one for each at least."""
    interest_tokens: int = Field(0, ge=0)
    """Tokens of a user made by attention over the history."""
    item_tokens: int = Field(2, ge=1)
    """Tokens of an item (K_c)."""
    parts: int = Field(2, ge=1)
    """Parts that a token is cut into (M); as many again where factors are appended to the learned vectors."""
    codes: int = Field(4096, ge=2, le=65_536)
    """Rows of each part's codebook (N)."""
    interaction: Literal["mlp", "product"] = "mlp"
    """What scores a code against an item: a net over products, or inner products alone."""
    hidden_units: int = Field(16, ge=1)
    """Width of the net's hidden layer (H)."""
    initial_bias: float = 0.5
    """First value of the learned bias, in units of the score; above 0, so that own items begin with a gradient."""
    scale: float = Field(10.0, gt=0)
    """First weight of the inner product of a token and an item's first token."""
    commitment: float = Field(0.25, ge=0)
    """Weight of the loss that holds tokens near their codes (lambda)."""
    estimator: Literal["straight_through", "stop_gradient"] = "straight_through"
    """How a gradient passes the quantizer: through it, or not at all (the commitment loss alone moves tokens then)."""
    decay: float = Field(0.99, gt=0, lt=1)
    """What stays of a codebook's averages at a step."""
    restart_below: float = Field(0.1, ge=0)
    """Codes that tokens fall into less often than this share of even use are put on tokens of the batch."""
    log_q: Literal["none", "yi2019", "khrylchenko2025"] = "yi2019"
    """Correction of the sampling bias."""
    epochs: int = Field(2, ge=0)
    """Passes over the examples, at most."""
    choose_epochs: bool = True
    """Early stopping: whether the days held out for validation, if any, decide how many of the epochs are
    taken; none is among the choices: the towers with codes instead of users' vectors."""
    batch_size: int = Field(256, ge=2)
    """Examples per step."""
    num_uniform: int = Field(512, ge=0)
    """Items drawn evenly from the catalogue for each batch and shared by its rows."""
    learning_rate: float = Field(0.001, gt=0)
    """Of Adam."""

    @model_validator(mode="after")
    def _codes_have_a_number(self) -> SparCodeFitConfig:
        """Refuses more codes than an integer can number."""
        if self.codes**self.parts >= 2**63:
            raise ValueError(
                f"parts is {self.parts} and codes {self.codes}: their {self.codes}^{self.parts} codes have no 63-bit "
                "number; lower one of them"
            )
        return self


class DailyConfig(Section):
    """The nightly run."""

    full_every_days: int | None = Field(None, ge=1)
    """Full retrain when the last one is this old; null makes warm starts until a full retrain is asked for."""
    epochs: int = Field(1, ge=1)
    """Passes over the new days of a warm start."""
    replay_days: int = Field(1, ge=0)
    """Days before the new ones that are fitted once more, with the users who were held out of them."""
    holdout_share: float | None = Field(None, ge=0, lt=1)
    """Share of the users whose new examples wait a day, so that the fit can be compared with the previous one; null
    holds out as many as `detectable_fall` needs, and at most half of them."""
    detectable_fall: float = Field(0.2, gt=0, le=1)
    """Fall of recall, as a part of the previous fit's, that the users held out show four times in five."""
    keep_exposure_days: int | None = Field(None, ge=1)
    """Days before the night's own of which the lists that servers logged are kept; null keeps them all."""


@dataclass(frozen=True)
class TeachSections:
    """What the step `teach` reads of the configuration."""

    distillation: TeacherConfig | None = read("training.distillation")
    example_days: int = read("training.example_days")
    example_events: int | None = read("features.example_events")


@dataclass(frozen=True)
class TrainSections:
    """What the step `train` reads of the configuration."""

    seed: int = read("seed")
    dataset: Schema = read("dataset")
    history_length: int = read("features.history_length")
    example_events: int | None = read("features.example_events")
    towers: TowerConfig = read("towers")
    training: TrainingConfig = read("training")
    sparcode: SparCodeFitConfig | None = read("sparcode")
    ks: tuple[int, ...] = read("evaluation.ks")
    warm_epochs: int = read("daily.epochs")
    replay_days: int = read("daily.replay_days")
    holdout_share: float | None = read("daily.holdout_share")
    detectable_fall: float = read("daily.detectable_fall")


@dataclass(frozen=True)
class WarmStartSections:
    """What decides whether a night's fit is a warm start."""

    dataset: Schema = read("dataset")
    source: AnySource = read("ingest.source")
    towers: TowerConfig = read("towers")
    training: TrainingConfig = read("training")
    sparcode: SparCodeFitConfig | None = read("sparcode")
    full_every_days: int | None = read("daily.full_every_days")
