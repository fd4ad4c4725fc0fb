"""Fit: from the configuration and a phase's days to fitted towers; methods are chosen here and composed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from artefacts.console import progress
from features.encoding import Encoder
from towers.co_purchase import with_factors
from towers.dual_augmented import refresh_fallbacks
from towers.ensemble import concatenate, part_widths
from towers.mobius import with_three_parts
from towers.two_tower import VECTOR, TwoTower, build_two_tower
from training.dataset import Batch, BatchPlan, epoch_batches
from training.distribution import PROCESSES
from training.factors import item_factors
from training.frequency import StreamingFrequency
from training.held_out import TRAINED, Bools, WarmStart, state_file
from training.methods import additions, state_of, terms
from training.negatives import KnownPositives
from training.objective import DecayingWeight
from training.private_negatives import UserNegatives, hard_per_row
from training.queue import VectorQueue
from training.trainer import EpochMetrics, EpochReport, RetrievalModel, fit, make_deterministic, row_adagrad
from training.training_data import Material
from training.warm_start import carry_over, save_state
from training.warm_start import state_of as state_of_fit
from twinspire.config import Config

Look = Callable[[TwoTower], EpochMetrics]


@dataclass(frozen=True)
class Fitted:
    """What a phase gave.

    Attributes:
        towers: As they are served.
        learned: Without what stands beside the learned vectors.
        parts: Widths of the vectors that stand side by side in one vector, the first pair's first.
        reports: One for each epoch of the last fit.
    """

    towers: TwoTower
    learned: TwoTower
    parts: tuple[int, ...]
    reports: list[EpochReport]


def fit_phase(
    config: Config,
    encoder: Encoder,
    material: Material,
    *,
    folder: Path,
    look: Look,
    say: Say,
    warm: WarmStart | None = None,
) -> Fitted:
    """Fits the towers of a phase, with whatever other towers they need first.

    With a teacher (MOBIUS) or a hard model beside an easy one (EBR), plain towers are fitted first, on the same days.
    Co-purchase factors, if any, stand beside what was learned.

    Args:
        config: The configuration.
        encoder: The dataset's encoder.
        material: What is fitted.
        folder: Gets checkpoints and logs.
        look: Measures towers as they would be served.
        say: Told of each epoch.
        warm: What the fit goes on from; None begins anew.
    """
    settings = config.training
    join = with_factors_of(config, encoder, material.known)
    has_first = settings.mobius is not None or settings.hard_model_weight is not None
    single = _Single(config, encoder, material, folder, say, warm)
    first = single.fit("first", teacher=None, mined=None, look=lambda towers: look(join(towers))) if has_first else None
    if first is not None and settings.hard_model_weight is not None:
        easy, weight = first[0], settings.hard_model_weight

        def pair(towers: TwoTower) -> TwoTower:
            return concatenate([(easy, 1.0), (towers, weight)])

        hard, reports = single.fit(
            "hard", teacher=None, mined=material.mined, look=lambda towers: look(join(pair(towers)))
        )
        learned, parts = pair(hard), part_widths([easy, hard])
    else:
        teacher = first[0] if first is not None else None
        learned, reports = single.fit("", teacher=teacher, mined=material.mined, look=lambda towers: look(join(towers)))
        parts = part_widths([learned])
    served = join(learned)
    rest = int(served.item.output.shape[-1]) - sum(parts)
    return Fitted(served, learned, (*parts, rest) if rest else parts, reports)


Say = Callable[[str, EpochReport], None]
"""Told the name of the fit and what an epoch gave."""


@dataclass(frozen=True)
class _Single:
    """Fits one pair of towers."""

    config: Config
    encoder: Encoder
    material: Material
    folder: Path
    say: Say
    warm: WarmStart | None

    def fit(
        self, name: str, *, teacher: TwoTower | None, mined: UserNegatives | None, look: Look
    ) -> tuple[TwoTower, list[EpochReport]]:
        """Builds a pair with the configured methods and fits it; with a teacher, as its student."""
        config, settings = self.config, self.config.training
        processes = PROCESSES[settings.distribute]()
        make_deterministic(config.seed)
        trained = self._trained()
        with processes.scope():
            towers = self._build(*trained, student=teacher is not None)
            chosen = terms(config, teacher=teacher)
            queue_size = settings.negatives.queue_size
            queue = VectorQueue(queue_size, int(towers.item_parts.output[VECTOR].shape[-1])) if queue_size else None
            model = RetrievalModel(
                towers,
                terms=chosen,
                temperature=config.towers.temperature,
                learn_temperature=config.towers.learn_temperature,
                queue=queue,
            )
            optimizer, kept = row_adagrad(settings.learning_rate), state_of(chosen)
        carried = {"": model.variables, **{name: term.variables for name, term in kept.items()}}
        plan = self._plan(mined)
        if self.warm is not None:
            state = self.warm.state(name)
            carry_over(state, self.warm.growth, carried, optimizer)
            refresh_fallbacks(towers)
            if plan.frequency is not None:
                plan.frequency.restore(state)
        folder = self.folder / "-".join(part for part in (self.material.name, name) if part)

        def batches_of(epoch: int) -> Iterator[Batch]:
            return processes.shares(epoch_batches(self.material.load_all(), plan, seed=[config.seed, epoch]))

        def after_steps() -> None:
            for weight, _ in chosen:
                if isinstance(weight, DecayingWeight):
                    weight.step()
            refresh_fallbacks(towers)

        steps = settings.epochs * max(1, round(int(plan.item_counts.sum()) / settings.batch_size))
        title = " ".join(part for part in (self.material.name, name) if part)
        with progress(f"training ({title})", total=steps) as advance:
            reports = fit(
                model,
                settings.epochs,
                batches_of=batches_of,
                optimizer=optimizer,
                folder=folder,
                look=look,
                after_steps=after_steps,
                on_step=lambda loss: advance(1),
                on_epoch=lambda report: self.say(title, report),
                checkpoint_every_epochs=settings.checkpoint_every_epochs,
                saved=kept,
                graph_of=processes.graph_of,
            )
        seen = {} if plan.frequency is None else plan.frequency.state()
        save_state(state_of_fit(carried, optimizer) | seen, state_file(folder.parent, name))
        save_state(dict(zip(("users", "items"), trained, strict=True)), state_file(folder.parent, TRAINED))
        return model.fitted, reports

    def _trained(self) -> tuple[Bools, Bools]:
        """Users and items with an example, in this fit or in those that it goes on from."""
        users, items = self.material.user_counts > 0, self.material.item_counts > 0
        if self.warm is None:
            return users, items
        earlier_users, earlier_items = self.warm.trained()
        return users | earlier_users[: len(users)], items | earlier_items[: len(items)]

    def _build(self, trained_users: Bools, trained_items: Bools, *, student: bool) -> TwoTower:
        shape = self.config.towers
        users, items = self.encoder.user_ids, self.encoder.item_ids
        user_adds, item_adds = additions(
            self.config,
            self.encoder,
            categories=self.material.categories,
            trained_users=trained_users,
            trained_items=trained_items,
        )
        towers = build_two_tower(
            self.encoder.input_specs("user"),
            self.encoder.input_specs("item"),
            embedding_dim=shape.embedding_dim,
            hidden_units=shape.hidden_units,
            head=shape.head,
            activation=shape.activation,
            history_decay_days=shape.history_decay_days,
            history_power=shape.history_power,
            id_dropout=shape.id_dropout,
            bucket_of_user_row=users.bucket_of_row() if shape.id_buckets else None,
            bucket_of_item_row=items.bucket_of_row() if shape.id_buckets else None,
            user_adds=user_adds,
            item_adds=item_adds,
        )
        mobius = self.config.training.mobius
        if student and mobius is not None:
            return with_three_parts(towers, bad_weight=mobius.bad_weight)
        return towers

    def _plan(self, mined: UserNegatives | None) -> BatchPlan:
        settings, negatives = self.config.training, self.config.training.negatives
        num_easy = negatives.num_random + negatives.num_uniform + (settings.batch_size if negatives.in_batch else 0)
        hard = (
            0
            if mined is None or negatives.easy_per_hard is None
            else hard_per_row(num_easy, easy_per_hard=negatives.easy_per_hard)
        )
        streaming = settings.streaming
        return BatchPlan(
            batch_size=settings.batch_size,
            in_batch=negatives.in_batch,
            num_uniform=negatives.num_uniform,
            num_random=negatives.num_random,
            queue_size=negatives.queue_size,
            mined=mined,
            num_mined=hard,
            impressions=self.material.impressions,
            num_impressions=negatives.num_impressions,
            known=self.material.known,
            item_counts=self.material.item_counts,
            catalogue_size=len(self.encoder.item_ids) - 1,
            correct=settings.log_q != "none",
            frequency=None
            if settings.frequency == "exact"
            else StreamingFrequency(
                self.encoder.item_ids.stable_numbers(),
                num_hashes=streaming.num_hashes,
                num_buckets=streaming.num_buckets,
                rate=streaming.rate,
                initial_gap=streaming.initial_gap,
            ),
        )


def with_factors_of(config: Config, encoder: Encoder, known: KnownPositives) -> Callable[[TwoTower], TwoTower]:
    """Appends to learned towers what co-purchases alone say, of what was known at some moment."""
    settings = config.towers
    if not settings.factor_dim:
        return lambda towers: towers
    factors = item_factors(
        known.owners,
        known.items,
        num_user_rows=len(known.starts) - 1,
        # Histories and new items may point at buckets, which have no factors.
        num_item_rows=encoder.item_ids.num_table_rows,
        num_factors=settings.factor_dim,
        power=settings.factor_power,
        seed=config.seed,
    )
    return lambda towers: with_factors(towers, factors, weight=settings.factor_weight)
