"""The job's index is the one that is built in memory, however items and users are cut into blocks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs import build_sparse
from beam_jobs.config import BeamConfig
from features.encoding import Encoder
from features.ids import IdMap
from features.schema import Schema
from serving.retrieval.purchases import Purchases
from serving.sparcode.postings import catalogue_digest
from serving.sparse.bm25 import Scoring
from serving.sparse.fields import fields_of
from serving.sparse.index import About, SparseIndex, SparseReport
from serving.sparse.terms import count_terms, terms_of

NUM_USERS, NUM_ITEMS = 60, 50
SCHEMA = Schema.model_validate({"item_columns": {"aisle": "categorical", "kind": ["categorical", "text"]}})
FIELDS = fields_of(SCHEMA)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Items, pairs and an encoder, at random."""
    rng = np.random.default_rng(1)
    kinds = [" ".join(rng.choice(["rye", "milk", "free", "oat", "bar"], rng.integers(0, 4))) for _ in range(NUM_ITEMS)]
    item_ids = [f"i{number:02}" for number in range(NUM_ITEMS)]
    aisles = [None if number % 7 == 0 else f"aisle {number % 4}" for number in range(NUM_ITEMS)]
    items = {"item_id": item_ids, "item_name": [None] * NUM_ITEMS, "aisle": aisles, "kind": kinds}
    table = pa.table(items, schema=pa.schema([(name, pa.string()) for name in items]))
    pq.write_table(table, tmp_path / "items.parquet")
    users, met = np.nonzero(rng.random((NUM_USERS, NUM_ITEMS)) < 0.2)
    pairs = {
        "user_id": [f"u{user:02}" for user in users],
        "item_id": [item_ids[item] for item in met],
        "num_events": rng.integers(1, 4, len(users)),
        "last_seconds": rng.integers(0, 10**9, len(users)),
    }
    pq.write_table(pa.table(pairs), tmp_path / "pairs.parquet")
    encoder = Encoder(
        schema=SCHEMA,
        user_ids=IdMap([f"u{number:02}" for number in range(NUM_USERS)]),
        item_ids=IdMap(item_ids),
        vocabularies={"aisle": IdMap(["aisle 0"]), "kind": IdMap(["rye"])},
        scaling={},
        history_length=4,
        text_length=3,
        text_buckets=10,
    )
    encoder.save(tmp_path / "encoder")
    return tmp_path


def run(shop: Path, scoring: Scoring, out: str) -> SparseReport:
    return build_sparse.run(
        items=shop / "items.parquet",
        pairs=shop / "pairs.parquet",
        encoder=shop / "encoder",
        fields=FIELDS,
        scoring=scoring,
        half_life_days=60.0,
        saturation=0.01,
        out=shop / out,
        options=BeamConfig().pipeline_options(),
    )


@pytest.mark.parametrize("scoring", [Scoring(), Scoring(learned_weights=True, expansion_terms=2)])
def test_the_index_of_the_job_is_the_one_that_is_built_in_memory(
    shop: Path, scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_sparse, "ITEM_BLOCK", 16)
    monkeypatch.setattr(build_sparse, "USER_BLOCK", 13)
    report = run(shop, scoring, "sparse")
    items, encoder = pq.read_table(shop / "items.parquet"), Encoder.load(shop / "encoder")
    item_ids = items.column("item_id").to_pylist()
    found = SparseIndex.load(shop / "sparse", item_ids)
    vocabulary, counts = count_terms(terms_of(items, FIELDS), FIELDS, num_items=NUM_ITEMS)
    met = Purchases.from_pairs(shop / "pairs.parquet", user_ids=encoder.user_ids, item_ids=encoder.item_ids)
    # The unknown user is none of those who have met something.
    about = About(catalogue_digest(item_ids), FIELDS, scoring, 60.0, 0.01)
    expected = SparseIndex(about, vocabulary, found.impacts, counts.astype(np.float32))
    expected = SparseIndex.build(about, vocabulary, counts, None) if not scoring.needs_buyers else expected
    expected = expected.learned_from(met.of(np.arange(1, NUM_USERS + 1)))
    assert found.about == about
    assert found.vocabulary.terms == vocabulary.terms
    np.testing.assert_array_equal(found.counts.toarray(), counts.toarray())
    np.testing.assert_allclose(found.impacts.toarray(), expected.impacts.toarray(), rtol=1e-6)
    assert asdict(report) == json.loads((shop / "sparse.json").read_text())
    assert report == found.report(shop / "sparse")
    assert report.num_empty == sum(not len(row) for row in np.split(found.counts.indices, found.counts.indptr[1:-1]))


def test_the_job_writes_the_same_bytes_again_and_leaves_nothing_else(shop: Path) -> None:
    for name in ("sparse", "again"):
        run(shop, Scoring(learned_weights=True, expansion_terms=2), name)
    files = sorted(path.name for path in (shop / "sparse").iterdir())
    assert [(shop / "sparse" / name).read_bytes() for name in files] == [
        (shop / "again" / name).read_bytes() for name in files
    ]
    assert not [path for path in shop.iterdir() if path.name.startswith(".")]


def test_items_of_another_fit_are_refused(shop: Path) -> None:
    pq.write_table(pq.read_table(shop / "items.parquet").slice(1), shop / "items.parquet")
    with pytest.raises(ValueError, match=r"items are not those of .* run the train step again"):
        run(shop, Scoring(), "sparse")
