"""Fit of a phase: from its training data to fitted towers, with the methods that the configuration chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from artefacts.console import console, progress
from features.encoding import Encoder
from towers.dual_augmented import refresh_fallbacks
from towers.ensemble import concatenate, part_widths
from towers.history import HISTORY_ENCODERS
from towers.mobius import with_three_parts
from towers.two_tower import VECTOR, TwoTower, build_two_tower, with_last_place
from training.checkpoints import Position
from training.co_purchase import Suggest, with_factors_of
from training.config import TowerConfig, TrainingConfig
from training.content_factors import suggested_by_content
from training.data.batches import Batch, BatchPlan, epoch_batches
from training.data.not_finite import cause_of
from training.data.training_data import TrainingData
from training.distribution import PROCESSES
from training.epochs import EarlyStopping, EpochMetrics, EpochReport
from training.fit_loop import fit
from training.held_out import TRAINED, Bools, WarmStart, state_file
from training.losses.objective import DecayingWeight, Terms
from training.methods import additions, cold_items, state_of, terms
from training.negatives import NEGATIVE_SOURCES
from training.negatives.private import UserNegatives, hard_per_row, listed
from training.negatives.queue import VectorQueue
from training.negatives.sampling_bias import StreamingFrequency
from training.negatives.source import Source
from training.optimizers import make_optimizer
from training.trainer import RetrievalModel, make_deterministic
from training.warm_start import carry_over, save_state
from training.warm_start import state_of as state_of_fit

Evaluate = Callable[[TwoTower], EpochMetrics]
TOWERS = "towers"
"""Name of the fit of the towers that are served, among the numbers of epochs."""


@dataclass(frozen=True)
class Fitted:
    """What a phase gave.

    Attributes:
        towers: As they are served.
        learned: Without what is appended to the learned vectors.
        parts: Widths of the vectors that are concatenated to one, the first pair's first.
        reports: One for each epoch of the last fit, those after its best one included.
        epochs: Name of each fit that it took -> epochs that it kept; the last fit comes last.
        suggest: Gives factors to items that no user has met; None where these have none.
        taught: How many examples a teacher taught, in words; empty without one.
    """

    towers: TwoTower
    learned: TwoTower
    parts: tuple[int, ...]
    reports: list[EpochReport]
    epochs: Mapping[str, int]
    suggest: Suggest | None = None
    taught: str = ""

    @property
    def best(self) -> int:
        """The epoch whose towers these are, from 1."""
        return list(self.epochs.values())[-1]


Report = Callable[[str, EpochReport], None]
"""Called with the name of the fit and what an epoch gave."""


def resumed(title: str, at: Position, advance: Callable[[int], None]) -> None:
    """Tells people where a fit resumes that was interrupted, and has its progress bar begin there."""
    where = "was fitted" if at.is_finished else f"resumes at epoch {len(at.reports) + 1}, step {len(at.losses) + 1}"
    console().print(f"  {title} {where}: the run before was interrupted")
    advance(at.num_steps)


def fit_phase(
    encoder: Encoder,
    data: TrainingData,
    *,
    towers: TowerConfig,
    training: TrainingConfig,
    seed: int,
    folder: Path,
    unfinished: Path,
    evaluate: Evaluate,
    report: Report,
    stopping: EarlyStopping | None = None,
    epochs: Mapping[str, int] | None = None,
    warm: WarmStart | None = None,
) -> Fitted:
    """Fits the towers of a phase, after any other towers that they need first.

    With a teacher (MOBIUS) or a hard model next to an easy one (EBR), plain towers are fitted first, on the same days.
    Each fit stops by the recall of what it would serve itself. Co-purchase factors, if any, are appended to what was
    learned.

    Args:
        encoder: The dataset's encoder.
        data: What is fitted.
        towers: Shape of the towers.
        training: How they are fitted.
        seed: Of every choice at random.
        folder: Gets the state that a later fit starts from.
        unfinished: Gets checkpoints and logs; a fit that was killed resumes from those that are there.
        evaluate: Measures towers as they would be served.
        report: Called after each epoch.
        stopping: Ends each fit early, and keeps its best epoch; None keeps the last one.
        epochs: How many each fit takes, by name; None takes those of the configuration.
        warm: The state that the fit starts from; None starts from random values.
    """
    suggest = partial(suggested_by_content, facts=data.facts) if training.item_dropout and data.facts else None
    join = with_factors_of(encoder, data.known, towers=towers, seed=seed, suggest=suggest)
    single = _Single(towers, training, seed, encoder, data, folder, unfinished, report, stopping, epochs or {}, warm)
    first, kept = None, dict[str, int]()
    if training.mobius is not None or training.hard_model_weight is not None:
        first, found = single.fit("first", teacher=None, mined=None, evaluate=lambda pair: evaluate(join(pair)))
        kept["first"] = single.best(found)
    if first is not None and training.hard_model_weight is not None:
        easy, weight = first, training.hard_model_weight

        def with_easy(hard: TwoTower) -> TwoTower:
            return concatenate([(easy, 1.0), (hard, weight)])

        hard, reports = single.fit(
            "hard", teacher=None, mined=data.mined, evaluate=lambda pair: evaluate(join(with_easy(pair)))
        )
        kept["hard"] = single.best(reports)
        learned, parts = with_easy(hard), part_widths([easy, hard])
    else:
        learned, reports = single.fit("", teacher=first, mined=data.mined, evaluate=lambda pair: evaluate(join(pair)))
        kept[TOWERS] = single.best(reports)
        parts = part_widths([learned])
    served = join(learned)
    rest = int(served.item.output.shape[-1]) - sum(parts)
    return Fitted(served, learned, (*parts, rest) if rest else parts, reports, kept, suggest, data.taught)


@dataclass(frozen=True)
class _Single:
    """Fits one pair of towers; attributes as the arguments of `fit_phase`."""

    shape: TowerConfig
    training: TrainingConfig
    seed: int
    encoder: Encoder
    data: TrainingData
    folder: Path
    unfinished: Path
    report: Report
    stopping: EarlyStopping | None
    epochs: Mapping[str, int]
    warm: WarmStart | None

    def best(self, reports: Sequence[EpochReport]) -> int:
        """The epoch that a fit keeps."""
        return self.stopping.best(reports) if self.stopping is not None else len(reports)

    def fit(
        self, name: str, *, teacher: TwoTower | None, mined: UserNegatives | None, evaluate: Evaluate
    ) -> tuple[TwoTower, list[EpochReport]]:
        """Builds a pair with the configured methods and fits it; with a teacher, as its student."""
        training = self.training
        processes = PROCESSES[training.distribute]()
        make_deterministic(self.seed)
        trained = self._trained()
        with processes.scope():
            towers = self._build(*trained, student=teacher is not None)
            chosen = terms(
                self.shape, training, category=self.encoder.schema.item_category, seed=self.seed, teacher=teacher
            )
            model = self._model(towers, chosen)
            optimizer, kept = make_optimizer(training.optimizer, training.learning_rate), state_of(chosen)
        carried = {"": model.variables, **{name: term.variables for name, term in kept.items()}}
        plan = self._plan(mined, num_positions=0 if teacher is not None else training.positions)
        if self.warm is not None:
            state = self.warm.state(name)
            carry_over(state, self.warm.growth, carried, optimizer)
            refresh_fallbacks(towers)
            if plan.frequency is not None:
                plan.frequency.restore(state)
        folder = self.unfinished / "-".join(part for part in (self.data.name, name) if part)

        def batches_of(epoch: int) -> Iterator[Batch]:
            return processes.shares(epoch_batches(self.data.load_all(), plan, seed=[self.seed, epoch]))

        def after_steps() -> None:
            for weight, _ in chosen:
                if isinstance(weight, DecayingWeight):
                    weight.step()
            refresh_fallbacks(towers)

        epochs = self.epochs.get(name or TOWERS, training.epochs)
        steps = epochs * max(1, round(int(self.data.item_counts.sum()) / training.batch_size))
        title = " ".join(part for part in (self.data.name, name) if part)
        with progress(f"training ({title})", total=steps) as advance:
            reports = fit(
                model,
                epochs,
                batches_of=batches_of,
                optimizer=optimizer,
                learning_rate_decay=training.learning_rate_decay,
                folder=folder,
                evaluate=evaluate,
                after_steps=after_steps,
                on_step=lambda loss: advance(1),
                on_epoch=lambda report: self.report(title, report),
                on_resume=lambda at: resumed(title, at, advance),
                stopping=self.stopping,
                # What one process would resume alone, the others would not.
                checkpoint_every_minutes=training.checkpoint_every_minutes if training.distribute == "none" else None,
                saved=kept,
                draws=plan.frequency,
                graph_of=processes.graph_of,
                of_chief=processes.of_chief,
                cause_of=lambda batch: cause_of(batch, self.encoder),
            )
        seen = {} if plan.frequency is None else plan.frequency.state()
        save_state(state_of_fit(carried, optimizer) | seen, state_file(self.folder, name))
        save_state(dict(zip(("users", "items"), trained, strict=True)), state_file(self.folder, TRAINED))
        return model.fitted, reports

    def _trained(self) -> tuple[Bools, Bools]:
        """Users and items with an example, in this fit or in those that it started from."""
        users, items = self.data.user_counts > 0, self.data.item_counts > 0
        if self.warm is None:
            return users, items
        earlier_users, earlier_items = self.warm.trained()
        return users | earlier_users[: len(users)], items | earlier_items[: len(items)]

    def _model(self, towers: TwoTower, chosen: Terms) -> RetrievalModel:
        queue_size = self.training.negatives.queue_size
        queue = VectorQueue(queue_size, int(towers.item_parts.output[VECTOR].shape[-1])) if queue_size else None
        return RetrievalModel(
            towers,
            terms=chosen,
            temperature=self.shape.temperature,
            learn_temperature=self.shape.learn_temperature,
            queue=queue,
        )

    def _build(self, trained_users: Bools, trained_items: Bools, *, student: bool) -> TwoTower:
        shape = self.shape
        users, items = self.encoder.user_ids, self.encoder.item_ids
        cold = cold_items(self.encoder, shape) if self.training.item_dropout else None
        user_adds, item_adds = additions(
            shape,
            self.encoder,
            categories=self.data.categories,
            trained_users=trained_users,
            trained_items=trained_items,
            cold=cold,
        )
        towers = build_two_tower(
            self.encoder.input_specs("user"),
            self.encoder.input_specs("item"),
            embedding_dim=shape.embedding_dim,
            hidden_units=shape.hidden_units,
            head=shape.head,
            activation=shape.activation,
            history=HISTORY_ENCODERS[shape.history_encoder](**shape.history_arguments),
            item_facts=with_last_place(self.data.facts, chosen=shape.last_place),
            num_positions=0 if student else self.training.positions,
            num_interests=shape.num_interests,
            id_dropout=shape.id_dropout,
            bucket_of_user_row=users.bucket_of_row() if shape.id_buckets else None,
            bucket_of_item_row=items.bucket_of_row() if shape.id_buckets else None,
            item_ids_pass=None if cold is None else cold.pass_ids,
            user_adds=user_adds,
            item_adds=item_adds,
        )
        mobius = self.training.mobius
        if student and mobius is not None:
            return with_three_parts(towers, bad_weight=mobius.bad_weight)
        return towers

    def _plan(self, mined: UserNegatives | None, *, num_positions: int) -> BatchPlan:
        training, negatives = self.training, self.training.negatives
        streaming = training.streaming
        return BatchPlan(
            batch_size=training.batch_size,
            in_batch=negatives.in_batch,
            queue_size=negatives.queue_size,
            sources=self._sources(mined),
            known=self.data.known,
            num_item_rows=len(self.encoder.item_ids),
            catalogue_size=len(self.encoder.item_ids) - 1,
            correct=training.log_q != "none",
            history_dropout=training.history_dropout,
            num_positions=num_positions,
            context_dropout=training.context_dropout,
            item_dropout=training.item_dropout,
            hard_weight=negatives.hard_weight,
            without_events=self.encoder.without_events(),
            teacher=self.data.teacher,
            num_mined=0 if mined is None else self._num_mined(),
            frequency=None
            if training.frequency == "exact"
            else StreamingFrequency(
                self.encoder.item_ids.stable_numbers(),
                num_hashes=streaming.num_hashes,
                num_buckets=streaming.num_buckets,
                rate=streaming.rate,
                initial_gap=streaming.initial_gap,
            ),
        )

    def _num_mined(self) -> int:
        """Mined negatives of a row."""
        negatives = self.training.negatives
        in_batch = self.training.batch_size if negatives.in_batch else 0
        num_easy = negatives.num_random + negatives.num_uniform + in_batch
        assert negatives.easy_per_hard is not None
        return hard_per_row(num_easy, easy_per_hard=negatives.easy_per_hard)

    def _sources(self, mined: UserNegatives | None) -> list[Source]:
        negatives, impressions = self.training.negatives, self.data.impressions
        sources = [NEGATIVE_SOURCES["uniform"](num=negatives.num_uniform)]
        if mined is not None:
            sources.append(listed(mined, num=self._num_mined()))
        if impressions is not None:
            sources.append(listed(impressions, num=negatives.num_impressions))
        sources.append(NEGATIVE_SOURCES["random"](num=negatives.num_random))
        return sources + [NEGATIVE_SOURCES[name](**given) for name, given in negatives.extra_sources.items()]
