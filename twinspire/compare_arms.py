"""The arms of `twinspire ab`: their lists at every cut, with every seed, compared."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from artefacts.console import progress
from artefacts.paths import RunPaths
from evaluation.arms.bundle_arm import Asked, BundleAtCut, ask
from evaluation.arms.file_arm import read_lists
from evaluation.arms.layers import layers_of
from evaluation.arms.served import measure, server_of
from evaluation.arms.spec import ArmSpec, bundle_folder
from evaluation.baselines import baselines_of
from evaluation.baselines.baseline import Past
from evaluation.catalogue import catalogue_of
from evaluation.comparison import compare_arms
from evaluation.folds import Folds, make_folds
from evaluation.off_policy.estimate import estimate, read_log
from evaluation.report import NEW_TO_THE_USER, Latency, Layer, LayerCheck, Problem, Protocol, Report, letter_of
from evaluation.settings import About, Arm, Settings
from serving.arms import DEFAULT_ARM
from serving.config import ArmConfig
from serving.retrieval.ranking import Rows
from twinspire import trained_arm
from twinspire.config import Config
from twinspire.load_config import dump
from twinspire.trained_arm import Invocation

LAYERS: dict[str, Layer] = {"bundle": "index", "train": "index", "baseline": "baseline", "file": "file"}


@dataclass(frozen=True)
class Plan:
    """What is compared, and how.

    Attributes:
        specs: Arms, the baseline arm first.
        protocol: How past and future are divided.
        cuts: Days, in time order.
        seeds: With which arms are fitted that are trained first; empty for that of their configuration.
        window_days: Length of each window.
        settings: How arms are scored.
        layers: Whether exact search, index and server are compared.
        relevant: File of pairs, for the protocol `given`.
        exposures: Log of what was shown; None estimates nothing from one.
        reward_days: Days after an exposure in which a purchase counts.
        config_path: File that the configuration was read from.
        overrides: Of the command.
    """

    specs: Sequence[ArmSpec]
    protocol: Protocol
    cuts: Sequence[dt.date]
    seeds: tuple[int, ...]
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


def compare(plan: Plan, config: Config, paths: RunPaths, run: Invocation) -> Report:
    """Retrieves with every arm at every cut, and compares.

    Args:
        plan: What is compared.
        config: Of the dataset.
        paths: Where its runs lie.
        run: Moment and version, for arms that are fitted first.

    Returns:
        The report.

    Raises:
        ValueError: An arm cannot be asked at a cut, or has seen something from it on.
    """
    for spec in plan.specs:
        if spec.kind == "file" and not Path(spec.what).is_file():
            # Before other arms are asked or fitted, which takes its time.
            raise ValueError(f"arm {spec.name!r}: {spec.what}: no such file; expected Parquet or CSV of lists")
        if spec.kind == "train":
            trained_arm.resolve(spec, plan.config_path, plan.overrides, plan.cuts[0])
            trained_arm.make_tables(config, paths, run)
    category = config.dataset.item_category
    folds = make_folds(
        paths.tables,
        protocol=plan.protocol,
        cuts=plan.cuts,
        window_days=plan.window_days,
        item_category=category,
        relevant=plan.relevant,
    )
    arms, layers = [], []
    notes = [f"{plan.relevant}: {problem.kind}, {problem.count:,} times" for problem in folds.problems]
    with progress("arms", total=len(plan.specs) * len(plan.cuts)) as advance:
        for place, spec in enumerate(plan.specs):
            retrieval = _Retrieval(letter_of(place), spec, plan, config, paths, run)
            for number in range(len(plan.cuts)):
                retrieval.at(number, folds)
                advance(1)
            arms.append(retrieval.arm())
            layers += retrieval.layers
            notes += retrieval.notes
    report = compare_arms(
        folds.folds,
        arms,
        settings=plan.settings,
        catalogue=catalogue_of(
            paths.tables,
            paths.catalogue(plan.cuts[0]),
            item_category=category,
            item_family=config.dataset.item_family,
        ),
        about=About(
            config.name,
            plan.protocol,
            plan.seeds,
            tuple(layers),
            notes=tuple(dict.fromkeys(notes)),
            event_name=config.dataset.event_name,
        ),
    )
    if plan.exposures is None:
        return report
    shares = {arm.name: arm.share for arm in config.serving.arms} or {DEFAULT_ARM: 1.0}
    log = read_log(plan.exposures, shares, paths.tables, folds, reward_days=plan.reward_days)
    found = estimate(log, [arm.lists(-1, 0) for arm in arms], [arm.name for arm in arms], plan.settings)
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
    run: Invocation
    ranked: list[list[Rows]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    layers: list[LayerCheck] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    latency: Latency | None = None

    def arm(self) -> Arm:
        """The arm with its lists so far."""
        source, layer = "; ".join(dict.fromkeys(self.sources)), LAYERS[self.spec.kind]
        return Arm(
            self.spec.name, source, self.ranked, layer=layer, latency=self.latency, problems=tuple(self.problems)
        )

    def at(self, place: int, folds: Folds) -> None:
        """Adds the lists of a fold."""
        fold, k, new_only = folds.folds[place], max(self.plan.settings.ks), self.plan.new_only
        if self.spec.kind == "baseline":
            baseline = baselines_of(self.config.evaluation.world).get(self.spec.what)
            if baseline is None:
                raise ValueError(
                    f"arm {self.spec.name!r}: evaluation.world is null; set it to the folder of the world, which "
                    "`twinspire world` wrote"
                )
            fitted = baseline.fit(Past(fold.split, folds.events, folds.item_ids, self.plan.settings.seed, k))
            self.ranked.append([fitted.rank(k, new_only)])
            self.sources.append(baseline.source)
            if fitted.note:
                self.notes.append(f"{folds.cuts[place]}, {fitted.note}" if len(folds.cuts) > 1 else fitted.note)
        elif self.spec.kind == "file":
            relevant = fold.relevant(self.plan.settings.task)
            lists, problems = read_lists(
                Path(self.spec.what), fold.split, folds.item_ids, k=k, relevant=relevant, exclude_known=new_only
            )
            self.ranked.append([lists])
            self.sources.append(f"lists of {self.spec.what}")
            self.problems += problems
        else:
            seeds = self.plan.seeds if self.spec.kind == "train" and self.plan.seeds else (None,)
            self.ranked.append([self._ask_bundle(place, folds, seed, measured=seed == seeds[0]) for seed in seeds])

    def _ask_bundle(self, place: int, folds: Folds, seed: int | None, *, measured: bool) -> Rows:
        """The lists of a bundle; its latency and layers are measured at the last cut, with the first seed."""
        config, paths, folder = self._bundle(folds.cuts[place], seed)
        bundle = BundleAtCut(folder, config.serving, config.index.ef_search, paths, folds)
        settings, fold = self.plan.settings, folds.folds[place]
        asked = Asked(max(settings.ks), self.plan.new_only, self.spec.retriever, self.spec.weight_exponent)
        recommender = bundle.recommender(exact=False)
        retriever = recommender.retriever_of(asked.request([]))
        if asked.retriever not in (None, retriever):
            raise ValueError(
                f"arm {self.spec.name!r}: {bundle.bundle.version} has nothing for retriever {asked.retriever!r}, and "
                f"{retriever!r} would answer; make a bundle that has it, or choose another retriever"
            )
        lists = ask(recommender, asked, fold.split.user_ids, folds.item_ids)
        exponent = "" if asked.weight_exponent is None else f", weights^{asked.weight_exponent:g}"
        self.sources.append(f"{bundle.bundle.version}, {retriever}{exponent}")
        if place + 1 < len(folds.cuts) or not measured:
            return lists
        some = fold.split.user_ids[fold.has_relevant(settings.task)]
        self.latency = measure(lambda user: recommender.answer(asked.request([user])), some, seed=settings.seed)
        if self.plan.layers:

            def serve(version: str) -> AbstractContextManager[str]:
                return server_of(_serving_alone(config, version), paths.root.parent, version)

            found = layers_of(self.letter, bundle, asked, lists, serve, paths, folds, settings)
            self.layers += found.checks
            self.notes += found.notes
            self.latency = found.latency or self.latency
        return lists

    def _bundle(self, cut: dt.date, seed: int | None) -> tuple[Config, RunPaths, Path]:
        """How the bundle is served, where its features lie, and its folder."""
        if self.spec.kind == "train":
            config = trained_arm.resolve(self.spec, self.plan.config_path, self.plan.overrides, cut)
            base, runs = self.config.model_copy(update={"as_of": cut}), self.paths.root.parent
            trained = trained_arm.train_bundle(config, base, runs, self.run, seed=seed)
            return config, replace(trained.paths, arm=None), trained.bundle
        root = self.paths.root if self.spec.runs is None else self.spec.runs / self.config.name
        paths = RunPaths(root, cut)
        return self.config, paths, bundle_folder(self.spec, paths, cut)


def _serving_alone(config: Config, version: str) -> str:
    """A configuration as YAML that serves one bundle to all users, on a free port of this machine."""
    serving = {
        "host": "127.0.0.1",
        "port": 0,
        "workers": 1,
        "arms": (ArmConfig(name="compared", share=1.0, bundle=version),),
        "log_exposures": False,
        "requests_per_second": None,
    }
    return dump(config.model_copy(update={"serving": config.serving.model_copy(update=serving)}))
