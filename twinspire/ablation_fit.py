"""One fit of an ablation: an arm with one seed at one cut, whose lists and costs are kept so that a killed run resumes.

Costs are the size of what it searches, the time to build it and the latency of a list.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from artefacts.config import pick
from artefacts.console import VERBOSE, held_back, quiet_libraries, without_chatter
from artefacts.files import json_text
from artefacts.paths import RunPaths
from artefacts.steps import Step, digest_of, finished, run_step
from beam_jobs.config import MineSections
from evaluation.report import Cost
from evaluation.split import Split
from serving.bundles.folder import size_of
from serving.retrieval.index import INDEX_FILE, REPORT_FILE
from serving.retrieval.ranking import Rows
from serving.retrieval.retrievers import UserQueries
from serving.served import settled
from serving.sparcode.files import POSTINGS, SERVED, read_report
from twinspire.ablation_config import WITH_INDEX, WITH_TABLES, Lists
from twinspire.config import Config
from twinspire.fit_retrievers import queries_of, retriever_of, search
from twinspire.kept_lists import kept_lists
from twinspire.trained_arm import Invocation

# Users who are asked for to measure a latency, after the first ones.
NUM_ASKED, NUM_WARM_UP = 500, 20


@dataclass(frozen=True)
class Fit:
    """An arm of an ablation with one seed at one cut.

    Attributes:
        config: Resolved, with the cut as `as_of` and the seed.
        paths: Where the fit lies; shared by arms that differ in retrieval only.
        needs: The fit whose lists hard negatives are mined from.
        lists: Where the lists come from.
        keep: Whether other fits or arms come back to the model; otherwise only the lists stay.
    """

    config: Config
    paths: RunPaths
    needs: Fit | None
    lists: Lists
    keep: bool

    def steps(self, run: Invocation) -> dict[str, Step]:
        """Train, embed and index, with what they need in their digests; mine where the fit needs another one."""
        steps = run.steps(self.config, self.paths)
        if self.needs is None:
            return steps
        needed = self.needs.steps(run)["index"].digest
        steps = {
            name: replace(step, digest=digest_of({"step": step.digest, "needs": needed}))
            for name, step in steps.items()
        }
        digest = digest_of({"needs": needed, "negatives": self.config.training.negatives.model_dump(mode="json")})
        return {
            "mine": Step("mine", digest, (self.paths.mined,), self._mine_from(self.needs), self.paths.steps),
            **steps,
        }

    def _mine_from(self, needed: Fit) -> Callable[[], str]:
        def action() -> str:
            from beam_jobs.steps import mine

            outcome = mine(pick(MineSections, self.config), self.config.beam, needed.paths)
            # Found next to the fit that was searched; another arm may mine it with settings of its own.
            _remove(self.paths.mined)
            self.paths.mined.parent.mkdir(parents=True, exist_ok=True)
            needed.paths.mined.rename(self.paths.mined)
            return outcome

        return action


def retrieve(fit: Fit, run: Invocation, split: Split, *, k: int, costs: bool) -> tuple[Rows, float, Cost | None]:
    """What an arm retrieves for the users of a split, of what they have not met; fits it if that is not done.

    Args:
        fit: The arm.
        run: Of the command.
        split: Users and their history.
        k: Length of a list.
        costs: Whether what it takes is measured too.

    Returns:
        Lists [U, k] int32, the wall clock of the fit, seconds, and the costs if asked for.
    """
    steps = fit.steps(run)

    def make() -> Rows:
        _import_tensorflow()
        with nullcontext() if os.environ.get(VERBOSE) else without_chatter():
            try:
                _make_vectors(fit, run)
            finally:
                _forget_graphs()
            return search(fit.config, fit.paths, split, how=fit.lists, k=k)

    last = "codes" if fit.lists in WITH_TABLES else "index" if fit.lists in WITH_INDEX else "embed"
    depends_on = {"vectors": steps[last].digest, "k": k, "window": split.window_days}
    serving = fit.config.serving
    if fit.lists == "two_tower_and_sparcode":
        depends_on["fusion"] = [serving.fusion_depth, settled(serving).fusion_rank_constant]
    if fit.lists == "cascade":
        depends_on["depth"] = serving.fusion_depth
    if fit.lists in ("hybrid", "hybrid_hidden_past"):
        depends_on["hybrid"] = serving.model_dump(mode="json")
    digest = digest_of(depends_on)
    lists = kept_lists(fit.lists, fit.paths, digest=digest, shape=(len(split.user_ids), k), make=make)
    seconds: float = json.loads((fit.paths.steps / "train.json").read_text())["seconds"]
    cost = kept_cost(fit.config, fit.paths, split, how=fit.lists, k=k, digest=digest) if costs else None
    if not fit.keep:
        _remove(fit.paths.model, fit.paths.vectors, fit.paths.index, fit.paths.mined, fit.paths.codes)
    return lists, seconds, cost


def _make_vectors(fit: Fit, run: Invocation) -> None:
    """Does the steps up to the vectors that are not done, first those of the fit that is needed."""
    steps = fit.steps(run)
    wanted = [*(["teach"] if "teach" in steps else []), "train", "embed"]
    wanted += ["index"] if fit.lists in WITH_INDEX else ["codes"] if fit.lists in WITH_TABLES else []
    if fit.needs is not None and any(finished(steps[name]) is None for name in wanted):
        _make_vectors(fit.needs, run)
        _do_quietly(fit.needs.steps(run)["index"])
        _do_quietly(steps["mine"])
    for name in wanted:
        _do_quietly(steps[name])


def _do_quietly(step: Step) -> None:
    if finished(step) is None:
        if not os.environ.get(VERBOSE):
            quiet_libraries()
        run_step(step)


def _import_tensorflow() -> None:
    """Before a fit, so that the seconds of the first one are not those of the import."""
    with held_back():
        import tensorflow

        tensorflow.config.list_physical_devices()


def _forget_graphs() -> None:
    """Drops the graphs that TensorFlow keeps of a fit, of which there are many in one process."""
    import tf_keras

    tf_keras.backend.clear_session()
    gc.collect()


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def kept_cost(config: Config, paths: RunPaths, split: Split, *, how: Lists, k: int, digest: str) -> Cost:
    """What retrieving in one of the ways takes; measured once and kept next to the lists.

    Args:
        config: Of the arm.
        paths: Of its fit, whose vectors, graph and tables are there.
        split: Users that are asked for.
        how: The way.
        k: Length of the lists.
        digest: Hash over everything that the lists depend on.
    """
    path = paths.of_fit / "lists" / str(paths.as_of) / f"{how}_cost.json"

    def write() -> str:
        path.write_text(json_text(asdict(_cost(config, paths, split, how, k))))
        return "measured"

    step = Step(f"cost_{how}", digest, (path,), write, paths.steps)
    if finished(step) is None:
        run_step(step)
    return Cost(**json.loads(path.read_text()))


def _cost(config: Config, paths: RunPaths, split: Split, how: Lists, k: int) -> Cost:
    retriever = retriever_of(how, config, paths)
    users = queries_of(paths, split, how=how)
    rows = np.random.default_rng(config.seed).permutation(len(users))[: NUM_ASKED + NUM_WARM_UP]
    took = []
    for row in rows:
        one = _only(users, int(row))
        begun = time.perf_counter()
        retriever.retrieve(one, k)
        took.append(1000 * (time.perf_counter() - begun))
    took = took[NUM_WARM_UP:] or took
    return Cost(_bytes(paths, how), _build_seconds(paths, how), float(np.median(took)), float(np.percentile(took, 99)))


def _only(users: UserQueries, row: int) -> UserQueries:
    """One of the users, as a request asks."""
    place = np.asarray([row])
    return replace(
        users,
        purchases=users.purchases.of(place),
        as_of_seconds=users.as_of_seconds[place],
        query_embeddings=None if users.query_embeddings is None else users.query_embeddings[place],
        user_tokens=None if users.user_tokens is None else users.user_tokens[place],
    )


def _bytes(paths: RunPaths, how: Lists) -> float:
    vectors = _size(paths.vectors / "items")
    tables = _size(paths.codes / SERVED / POSTINGS) if how in WITH_TABLES else 0
    of_way: dict[Lists, int] = {
        "hnsw": vectors + _size(paths.index / INDEX_FILE),
        "sparcode": tables,
        "all_scores": _size(paths.codes / "item_tokens.npy"),
        "unquantised": _size(paths.codes / "item_tokens.npy"),
        "two_tower_and_sparcode": vectors + tables,
    }
    return float(of_way.get(how, vectors))


def _build_seconds(paths: RunPaths, how: Lists) -> float:
    if how in WITH_INDEX:
        seconds: float = json.loads((paths.index / REPORT_FILE).read_text())["build_seconds"]
        return seconds
    return read_report(paths.codes).build_seconds if how in ("sparcode", "two_tower_and_sparcode") else 0.0


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else size_of(path)
