"""The arm of a bundle: the recommender of a server with the features of a midnight, its lists and how long they take.

U users of a fold, k places of a list, N items of the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from artefacts.paths import RunPaths
from evaluation import foreign_tables, leakage
from evaluation.folds import Folds
from features import columns, schema
from serving import answers, config, registry
from serving.bundles.bundle import Bundle
from serving.recommender import Recommender
from serving.retrieval.ranking import NO_ROW, Rows

USER_BLOCK = 256


@dataclass(frozen=True)
class Asked:
    """What a bundle is asked in every fold.

    Attributes:
        k: Length of a list.
        exclude_known: Whether what users have met is left out; False leaves it to what the bundle serves.
        retriever: None takes the configured one.
        weight_exponent: None takes the index's.
    """

    k: int
    exclude_known: bool
    retriever: str | None
    weight_exponent: float | None

    def request(self, user_ids: list[str]) -> answers.RecommendRequest:
        """For some users."""
        return answers.RecommendRequest(
            tuple(user_ids),
            k=self.k,
            retriever=self.retriever,
            exclude_known=self.exclude_known or None,
            weight_exponent=self.weight_exponent,
        )


class BundleAtCut:
    """A bundle asked as its server would be, with the features of a midnight.

    Args:
        folder: Of the bundle.
        ranking: How lists are made.
        ef_search: Beam width of the index; None takes the bundle's.
        paths: Whose catalogue of features is read; at the cut.
        folds: Everything that happened, for the check that features know nothing later.

    Raises:
        ValueError: The bundle, its features or its purchases know something from the cut on, or there are no features
            of that midnight.
    """

    def __init__(
        self, folder: Path, ranking: config.RankingConfig, ef_search: int | None, paths: RunPaths, folds: Folds
    ) -> None:
        """Opens and checks everything."""
        self.bundle = Bundle.open(folder)
        leakage.check_bundle(self.bundle, folds.events, paths.as_of)
        features = paths.catalogue(paths.as_of)
        if not features.is_dir():
            raise ValueError(
                f"{features}: there are no features of {paths.as_of}, at which {self.bundle.version} is to be asked; "
                f"make them with `twinspire features --as-of {paths.as_of}`, or compare at the day of the bundle"
            )
        leakage.check_features(features, folds.events, paths.as_of, histories=folds.histories)
        self._features = FeaturesAtCut(features / "users.parquet", self.bundle.manifest.dataset_schema)
        self._ranking, self._ef_search = ranking, ef_search

    def recommender(self, *, exact: bool) -> Recommender:
        """Over the index, or over exact search in its place."""
        # Exact search is what every retriever falls back to where it is asked for more than the index is.
        ranking = self._ranking.model_copy(update={"max_fetch": 0}) if exact else self._ranking
        # What a comparison finds must not depend on how fast the machine is.
        ranking = ranking.model_copy(update={"second_look_ms": None})
        return registry.recommender_of(self.bundle, self._features, ranking, ef_search=self._ef_search)


class FeaturesAtCut:
    """Reads users as the online store would at a midnight.

    Args:
        path: `users.parquet` of the catalogue.
        dataset: Its schema.
    """

    def __init__(self, path: Path, dataset: schema.Schema) -> None:
        """Reads all users."""
        names = [columns.USER_ID, *schema.view_schema(dataset, "user").names]
        self._table = pq.read_table(path, columns=names).combine_chunks()
        self._ids = self._table.column(columns.USER_ID).combine_chunks()

    def __call__(self, user_ids: list[str]) -> pa.Table:
        """One row per id in the order asked, nulls where nothing is known."""
        asked = pa.array(user_ids, pa.string())
        rows = foreign_tables.rows_of(asked, self._ids)
        found = self._table.take(pa.array(rows, pa.int64(), mask=rows < 0))
        return found.set_column(0, columns.USER_ID, asked)


def ask(
    recommender: Recommender, asked: Asked, user_ids: npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_]
) -> Rows:
    """The lists of a bundle in the rows of the comparison's catalogue: [U, k] int32.

    Raises:
        ValueError: The bundle cannot be asked so.
    """
    own_ids = recommender.bundle.encoder.item_ids.ids(np.arange(1, recommender.bundle.manifest.num_items + 1))
    rows = foreign_tables.rows_of(pa.array(own_ids, pa.string()), pa.array(item_ids, pa.string())).astype(np.int32)
    # One more, so that what is behind the end of a list stays there.
    row_of = np.append(rows, np.int32(NO_ROW))
    parts = [np.zeros((0, asked.k), np.int32)]
    try:
        for begin in range(0, len(user_ids), USER_BLOCK):
            block = [str(user_id) for user_id in user_ids[begin : begin + USER_BLOCK]]
            parts.append(row_of[recommender.rank(asked.request(block)).rows])
    except answers.RequestError as error:
        raise ValueError(f"{recommender.bundle.version}: {error}") from None
    return without_holes(np.concatenate(parts))


def without_holes(lists: Rows) -> Rows:
    """Closes the gaps that items outside the catalogue leave in lists."""
    order = np.argsort(lists < 0, axis=1, kind="stable")
    return np.take_along_axis(lists, order, axis=1)
