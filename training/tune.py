"""Tuning: trials of settings, each fitted on the days before the validation days and measured on these.

What is measured is what early stopping decides by, the recall of exact lists after each epoch. A trial is pruned where
its best epoch so far is behind the median of earlier trials at the same epoch. Trials that have ended are in a journal
of Optuna's, a study for each set of data, configuration and space; an interrupted one resumes from its checkpoint.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend

from artefacts.config import ConfigError
from artefacts.paths import RunPaths
from evaluation.statistics import Interval, paired_difference
from evaluation.tuning import Outcome, Trial, Tuning
from training.config import TrainSections
from training.search_space import Parameter
from training.trial import fit_trial

JOURNAL = "trials.journal"
FIRST_COMPARED = 5
"""Trials before the first one that may be stopped early."""
FIRST_PRUNED_EPOCH = 2
"""Before it, small learning rates are behind, and may overtake others later."""
FEWEST_FOR_IMPORTANCE = 4
TOP_TRIALS = 5
"""How many of the best trials importance compares with all, at least; below that it is noise."""
DRAWS = 20
"""How often values are drawn that were tried before, until the space counts as done."""
SAMPLES_BEYOND = 10
"""Resamples outside each end of an interval, at least."""
VALUES, OUTCOME, SECONDS = "values", "outcome", "seconds"


class _OutOfTimeError(Exception):
    """The time is up in the middle of a trial, whose checkpoint stays."""


@dataclass(frozen=True)
class Task:
    """What is tuned.

    Attributes:
        name: Of the data set.
        paths: Where tables and features are, and where trials go.
        space: What is tried.
        own: Dotted key -> value of the configuration, which is the first trial.
        sections_of: What the training step reads, with other values.
        digest: Of all that the trials depend on: the data, the configuration, the space.
        num_samples: Resamples of intervals.
    """

    name: str
    paths: RunPaths
    space: Sequence[Parameter]
    own: Mapping[str, Any]
    sections_of: Callable[[Mapping[str, Any]], TrainSections]
    digest: str
    num_samples: int

    @property
    def sections(self) -> TrainSections:
        """Those of the configuration."""
        return self.sections_of(self.own)

    def accepted(self, values: Mapping[str, Any]) -> TrainSections | None:
        """Those with other values; None where the configuration refuses these together."""
        try:
            return self.sections_of(values)
        except ConfigError:
            return None

    @property
    def metric(self) -> str:
        """As epochs are measured by."""
        return f"recall_at_{max(self.sections.ks)}"

    def unfinished(self, number: int) -> Path:
        """Checkpoints of a trial; whoever is forgotten is in no folder of this kind."""
        return self.paths.tune / f".{self.digest}-{number}.fit"

    def recalls(self, number: int) -> Path:
        """Recall of each user with something to find, of a finished trial."""
        return self.paths.tune / f"{self.digest}-{number}.npy"


def tune(
    task: Task,
    *,
    num_trials: int | None,
    is_over: Callable[[], bool] = lambda: False,
    on_trial: Callable[[Trial, Sequence[Trial]], None] = lambda trial, before: None,
) -> Tuning:
    """Does the trials that a study lacks.

    Args:
        task: What is tuned.
        num_trials: How many the study is to have, those of earlier calls included; None sets no limit.
        is_over: Whether the time is up, asked after each epoch; the first trial comes to its end in any case.
        on_trial: Called after each trial, with those before it.

    Returns:
        All trials of the study and what comes of them.

    Raises:
        ValueError: There is nothing to measure by, or the configuration's own values cannot be fitted.
    """
    _check(task)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task.paths.tune.mkdir(parents=True, exist_ok=True)
    _remove_other_fits(task)
    backend = JournalFileBackend(str(task.paths.tune / JOURNAL))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=task.digest,
        direction="maximize",
        load_if_exists=True,
    )
    trials = list(_trials_of(study))
    while (num_trials is None or len(trials) < num_trials) and not (trials and is_over()):
        try:
            ended = _next_trial(task, study.get_trials(), is_over)
        except _OutOfTimeError:
            break
        if ended is None:
            break
        study.add_trial(ended)
        *before, done = _trials_of(study)
        _keep_recalls(task, [*before, done])
        on_trial(done, before)
        trials = [*before, done]
    return _result(task, study)


def _check(task: Task) -> None:
    training = task.sections.training
    if training.distribute != "none":
        raise ValueError(
            f"training.distribute is {training.distribute}, and trials are fitted by one process; set "
            "training.distribute: none"
        )
    if not training.validation_days:
        raise ValueError("training.validation_days is 0: there is nothing to measure trials by; hold out a week, 7")


def _remove_other_fits(task: Task) -> None:
    """Those of studies that are not resumed any more: they hold the values of users."""
    for folder in task.paths.tune.glob(".*.fit"):
        if not folder.name.startswith(f".{task.digest}-"):
            shutil.rmtree(folder)


def _next_trial(
    task: Task, before: Sequence[optuna.trial.FrozenTrial], is_over: Callable[[], bool]
) -> optuna.trial.FrozenTrial | None:
    """Does a trial; None where no other values than those tried are found.

    It is done in a copy of the study in memory: an interrupted one is in no journal, and is drawn again alike.
    """
    tried = [one.user_attrs[VALUES] for one in before]
    for attempt in range(DRAWS):
        study = _copy(task, before, attempt)
        trial = study.ask()
        drawn = {one.key: one.suggest(trial) for one in task.space}
        # As the configuration has them: what is drawn is rounded.
        values = drawn if before else {one.key: task.own[one.key] for one in task.space}
        if values not in tried and (sections := task.accepted(values)) is not None:
            break
    else:
        return None
    trial.set_user_attr(VALUES, values)
    started = time.monotonic()
    outcome, recall = _fit(task, sections, trial, is_over)
    trial.set_user_attr(OUTCOME, outcome)
    trial.set_user_attr(SECONDS, time.monotonic() - started)
    state = optuna.trial.TrialState.PRUNED if recall is None else optuna.trial.TrialState.COMPLETE
    study.tell(trial, recall, state=state)
    shutil.rmtree(task.unfinished(trial.number), ignore_errors=True)
    return study.get_trials()[-1]


def _copy(task: Task, before: Sequence[optuna.trial.FrozenTrial], attempt: int) -> optuna.Study:
    """The study in memory, with a seed of its own for each trial; the first one has the configuration's own values."""
    (seed,) = np.random.SeedSequence([task.sections.seed, len(before), attempt]).generate_state(1)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=int(seed)),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST_COMPARED, n_warmup_steps=FIRST_PRUNED_EPOCH),
    )
    study.add_trials(before)
    if not before:
        study.enqueue_trial({one.key: one.coded(task.own[one.key]) for one in task.space})
    return study


def _fit(
    task: Task, sections: TrainSections, trial: optuna.Trial, is_over: Callable[[], bool]
) -> tuple[Outcome, float | None]:
    """Fits a trial; returns its outcome, and the best epoch's recall of one that came to its end."""

    def on_epoch(epoch: int, recall: float) -> None:
        trial.report(recall, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
        if trial.number and is_over():
            raise _OutOfTimeError

    try:
        recall, by_user = fit_trial(
            replace(sections, sparcode=None),
            task.paths,
            unfinished=task.unfinished(trial.number),
            on_epoch=on_epoch,
        )
    except optuna.TrialPruned:
        return "pruned", None
    except FloatingPointError:
        if not trial.number:
            raise
        return "diverged", None
    np.save(task.recalls(trial.number), by_user, allow_pickle=False)
    return "finished", recall


def _trials_of(study: optuna.Study) -> Iterator[Trial]:
    for one in study.get_trials():
        recalls = tuple(recall for _, recall in sorted(one.intermediate_values.items()))
        attributes = one.user_attrs
        yield Trial(one.number, attributes[VALUES], recalls, attributes[OUTCOME], attributes[SECONDS])


def _best(trials: Sequence[Trial]) -> Trial:
    return max((one for one in trials if one.outcome == "finished"), key=lambda one: (one.recall, -one.number))


def _keep_recalls(task: Task, trials: Sequence[Trial]) -> None:
    """Keeps the users' recall of the first trial and of the best one alone."""
    kept = {task.recalls(number) for number in (0, _best(trials).number)}
    for path in task.paths.tune.glob(f"{task.digest}-*.npy"):
        if path not in kept:
            path.unlink()


def _result(task: Task, study: optuna.Study) -> Tuning:
    trials = tuple(_trials_of(study))
    best = _best(trials)
    level, difference = _difference(task, best.number, num_compared=len(trials) - 1)
    return Tuning(
        dataset=task.name,
        as_of=str(task.paths.as_of),
        validation_days=task.sections.training.validation_days,
        metric=task.metric.replace("_at_", "@"),
        study=task.digest,
        trials=trials,
        best=best.number,
        difference=difference,
        level=level,
        importance=_importance(study),
    )


def _difference(task: Task, best: int, *, num_compared: int) -> tuple[float, Interval]:
    """The best trial less the first, at a level corrected for how many it is the best of (Bonferroni)."""
    found, own = (np.load(task.recalls(number), allow_pickle=False) for number in (best, 0))
    tail = 0.025 / max(1, num_compared)
    num_samples = max(task.num_samples, round(SAMPLES_BEYOND / tail))
    level = 1 - 2 * tail
    return level, paired_difference(found, own, num_samples=num_samples, seed=task.sections.seed, level=level)


def _importance(study: optuna.Study) -> dict[str, float]:
    """By PED-ANOVA (Watanabe et al., IJCAI 2023): how the best trials differ from all that came to their end."""
    num_finished = sum(one.state == optuna.trial.TrialState.COMPLETE for one in study.get_trials())
    if num_finished < FEWEST_FOR_IMPORTANCE:
        return {}
    share = min(0.5, max(0.1, TOP_TRIALS / num_finished))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=share)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
