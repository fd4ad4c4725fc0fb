"""A/B: every arm's lists at every cut, judged on the same users."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from artefacts.console import progress
from artefacts.paths import RunPaths
from evaluation.ab.compare import compare_arms
from evaluation.ab.report import ABReport, Latency, LayerCheck, Problem, Protocol
from evaluation.ab.settings import LETTERS, About, Arm, Settings
from evaluation.report import NEW_TO_THE_USER
from serving.retrieval.ranking import Rows
from twinspire.ab_arms import ArmSpec
from twinspire.config import Config
from twinspire.pipeline.ab import trained_arm
from twinspire.pipeline.ab.baseline_arm import SOURCES, baseline_lists
from twinspire.pipeline.ab.bundle_arm import Asked, BundleAtCut, ask, bundle_folder, measure
from twinspire.pipeline.ab.file_arm import read_lists
from twinspire.pipeline.ab.folds import Folds, catalogue_of, make_folds
from twinspire.pipeline.ab.off_policy_rows import estimate, read_log
from twinspire.pipeline.ab.three_layers import layers_of
from twinspire.pipeline.fit_arm import Run


@dataclass(frozen=True)
class Plan:
    """What is compared, and how.

    Attributes:
        specs: Arms, A first.
        protocol: How past and future are divided.
        cuts: Days, in time order.
        window_days: Length of each window.
        settings: How arms are judged.
        layers: Whether exact search, index and server are told apart.
        relevant: File of pairs, for the protocol `given`.
        exposures: Log of what was shown; None estimates nothing from one.
        reward_days: Days after an exposure in which a purchase counts.
        config_path: File that the configuration was read from.
        overrides: Of the command.
    """

    specs: Sequence[ArmSpec]
    protocol: Protocol
    cuts: Sequence[dt.date]
    window_days: int
    settings: Settings
    layers: bool
    relevant: Path | None
    exposures: Path | None
    reward_days: int
    config_path: Path
    overrides: tuple[str, ...]

    @property
    def new_only(self) -> bool:
        """Whether what users have met is left out."""
        return self.settings.task == NEW_TO_THE_USER


def compare(plan: Plan, config: Config, paths: RunPaths, run: Run) -> ABReport:
    """Retrieves with every arm at every cut, and judges.

    Args:
        plan: What is compared.
        config: Of the dataset.
        paths: Where its runs lie.
        run: Moment and version, for arms that are fitted first.

    Returns:
        The report.

    Raises:
        ValueError: An arm cannot be asked at a cut, or knows something of after it.
    """
    for spec in plan.specs:
        if spec.kind == "file" and not Path(spec.what).is_file():
            # Before other arms are asked or fitted, which takes its time.
            raise ValueError(f"arm {spec.name!r}: {spec.what}: no such file; expected Parquet or CSV of lists")
        if spec.kind == "train":
            trained_arm.resolve(spec, plan.config_path, plan.overrides, plan.cuts[0])
            trained_arm.make_tables(config, paths, run)
    folds = make_folds(
        config,
        paths,
        protocol=plan.protocol,
        cuts=plan.cuts,
        window_days=plan.window_days,
        relevant=plan.relevant,
    )
    arms, layers = [], []
    notes = [f"{plan.relevant}: {problem.kind}, {problem.count:,} times" for problem in folds.problems]
    with progress("arms", total=len(plan.specs) * len(plan.cuts)) as advance:
        for letter, spec in zip(LETTERS, plan.specs, strict=False):
            retrieval = _Retrieval(letter, spec, plan, config, paths, run)
            for place in range(len(plan.cuts)):
                retrieval.at(place, folds)
                advance(1)
            arms.append(retrieval.arm())
            layers += retrieval.layers
            notes += retrieval.notes
    report = compare_arms(
        folds.folds,
        arms,
        settings=plan.settings,
        catalogue=catalogue_of(config, paths, plan.cuts[0]),
        about=About(config.name, plan.protocol, tuple(layers), tuple(dict.fromkeys(notes))),
    )
    if plan.exposures is None:
        return report
    log = read_log(plan.exposures, config, paths, folds, reward_days=plan.reward_days)
    found = estimate(log, [arm.ranked[-1] for arm in arms], [arm.name for arm in arms], plan.settings)
    return replace(
        report, off_policy=found.rows, off_policy_problems=found.problems, notes=(*report.notes, *found.notes)
    )


@dataclass
class _Retrieval:
    """One arm, cut by cut."""

    letter: str
    spec: ArmSpec
    plan: Plan
    config: Config
    paths: RunPaths
    run: Run
    ranked: list[Rows] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    layers: list[LayerCheck] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    latency: Latency | None = None

    def arm(self) -> Arm:
        """What was found so far."""
        source = "; ".join(dict.fromkeys(self.sources))
        return Arm(self.spec.name, source, self.ranked, self.latency, tuple(self.problems))

    def at(self, place: int, folds: Folds) -> None:
        """Adds the lists of a fold."""
        split, k, seed = folds.folds[place].split, max(self.plan.settings.ks), self.plan.settings.seed
        if self.spec.kind == "baseline":
            what, new_only = self.spec.what, self.plan.new_only
            lists = baseline_lists(what, split, folds.events, folds.item_ids, k=k, new_only=new_only, seed=seed)
            self.ranked.append(lists)
            self.sources.append(SOURCES[what])
        elif self.spec.kind == "file":
            relevant = folds.folds[place].relevant(self.plan.settings.task)
            lists, problems = read_lists(
                Path(self.spec.what), split, folds.item_ids, k=k, relevant=relevant, exclude_known=self.plan.new_only
            )
            self.ranked.append(lists)
            self.sources.append(f"lists of {self.spec.what}")
            self.problems += problems
        else:
            self._ask_bundle(place, folds)

    def _ask_bundle(self, place: int, folds: Folds) -> None:
        config, paths, folder = self._bundle(folds.cuts[place])
        bundle = BundleAtCut(folder, config, paths, folds.events)
        settings, fold = self.plan.settings, folds.folds[place]
        asked = Asked(max(settings.ks), self.plan.new_only, self.spec.retriever, self.spec.weight_exponent)
        recommender = bundle.recommender(exact=False)
        retriever = recommender.retriever_of(asked.question([]))
        if asked.retriever not in (None, retriever):
            raise ValueError(
                f"arm {self.spec.name!r}: {bundle.bundle.version} has nothing for retriever {asked.retriever!r}, and "
                f"{retriever!r} would answer; make a bundle that has it, or choose another retriever"
            )
        self.ranked.append(ask(recommender, asked, fold.split.user_ids, folds.item_ids))
        exponent = "" if asked.weight_exponent is None else f", weights^{asked.weight_exponent:g}"
        self.sources.append(f"{bundle.bundle.version}, {retriever}{exponent}")
        if place + 1 < len(folds.cuts):
            return
        some = fold.split.user_ids[fold.are_judged(settings.task)]
        self.latency = measure(lambda user: recommender.answer(asked.question([user])), some, seed=settings.seed)
        if self.plan.layers:
            found = layers_of(self.letter, bundle, asked, self.ranked[-1], config, paths, folds, settings)
            self.layers += found.checks
            self.notes += found.notes
            self.latency = found.latency or self.latency

    def _bundle(self, cut: dt.date) -> tuple[Config, RunPaths, Path]:
        """How the bundle is served, where its features lie, and its folder."""
        if self.spec.kind == "train":
            config = trained_arm.resolve(self.spec, self.plan.config_path, self.plan.overrides, cut)
            base, runs = self.config.model_copy(update={"as_of": cut}), self.paths.root.parent
            trained = trained_arm.train_arm(config, base, runs, self.run)
            return config, replace(trained.paths, arm=None), trained.bundle
        root = self.paths.root if self.spec.runs is None else self.spec.runs / self.config.name
        paths = RunPaths(root, cut)
        return self.config, paths, bundle_folder(self.spec, paths, cut)
