"""A small real bundle: an encoder, a user tower exported by TensorFlow, an index, purchases."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.encoding import Encoder
from features.ids import IdMap
from features.numbers import numeric_names
from features.schema import Schema, view_schema
from serving.bundles.bundle import Bundle
from serving.bundles.manifest import (
    FORMAT_VERSION,
    BusinessWeight,
    DataWindow,
    Facts,
    Manifest,
    describe_files,
    read_manifest,
    version_of,
    write_manifest,
)
from serving.bundles.publish import Parts, write
from serving.config import RankingConfig
from serving.recommender import Recommender
from serving.registry import retrievers_of
from serving.retrieval.index import AugmentedIndex, HnswIndex, IndexReport
from serving.retrieval.purchases import Purchases
from serving.retrieval.weights import log_weight_spread, weighted
from serving.served import DEFAULT, Served
from serving.sparcode.postings import catalogue_digest
from serving.sparse.bm25 import Scoring
from serving.sparse.fields import fields_of
from serving.sparse.index import About, SparseIndex
from serving.sparse.terms import count_terms, terms_of
from tests import forking
from tests.once import once

HERE = Path(__file__).parent
NUM_ITEMS, NUM_USERS, DIMENSION = 40, 6, 8
AS_OF = dt.date(2017, 12, 1)
AS_OF_SECONDS = 1512086400  # 2017-12-01 00:00 UTC
USERS = [f"u{number}" for number in range(1, NUM_USERS + 1)]
ITEMS = [f"i{number}" for number in range(NUM_ITEMS)]
DAY = 86_400


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    schema = Schema(
        user_columns={"age": "categorical"},  # type: ignore[dict-item]
        item_columns={"aisle": "categorical"},  # type: ignore[dict-item]
        item_category="aisle",
    )
    return Encoder(
        schema=schema,
        user_ids=IdMap(USERS),
        item_ids=IdMap(ITEMS),
        vocabularies={"age": IdMap(["old", "young"]), "aisle": IdMap(["fish", "fruit"])},
        scaling={name: (0.5, 2.0) for tower in ("user", "item") for name in numeric_names(schema, tower)},
        history_length=4,
        text_length=3,
        text_buckets=10,
    )


@pytest.fixture(scope="session")
def exported(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `user_tower.tflite`, `narrow.tflite` (4 numbers wide) and Keras's own vectors: `expected.npz`.

    TensorFlow runs in a process of its own, so that this one shows that serving does without.
    """

    def export(folder: Path) -> Path:
        encoder.save(folder / "encoder")
        command = [sys.executable, str(HERE / "export_for_tests.py"), str(folder), str(DIMENSION)]
        forking.run(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, check=True, capture_output=True)
        return folder

    return once(tmp_path_factory, "exported", export)


@pytest.fixture(scope="session")
def item_vectors() -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(3).normal(size=(NUM_ITEMS, DIMENSION))
    unit: npt.NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.fixture(scope="session")
def purchases() -> Purchases:
    """u1 bought i0 three times, i1 and i2 twice (i2 later); u2 bought everything; u3 bought nothing; u4 bought i39."""
    days = [(1, 0, 9), (1, 0, 8), (1, 0, 7), (1, 1, 6), (1, 1, 5), (1, 2, 6), (1, 2, 4), (4, 39, 2)]
    days += [(2, item, 3) for item in range(NUM_ITEMS)]
    users, items, days_ago = np.array(days).T
    return Purchases.from_events(
        users, items, seconds=AS_OF_SECONDS - days_ago * DAY, num_users=NUM_USERS + 1, num_items=NUM_ITEMS
    )


@pytest.fixture(scope="session")
def parts(encoder: Encoder, exported: Path, item_vectors: npt.NDArray[np.float32], purchases: Purchases) -> Parts:
    items = {
        "item_id": ITEMS,
        "item_name": [None if number == 5 else f"name {number}" for number in range(NUM_ITEMS)],
        "category": ["fruit" if number % 2 else "fish" for number in range(NUM_ITEMS)],
    }
    return Parts(
        config_yaml="name: small\n",
        encoder=encoder,
        user_tower=exported / "user_tower.tflite",
        item_tower=exported / "user_tower.tflite",
        item_vectors=item_vectors,
        item_weights=None,
        sparcode=None,
        index=HnswIndex.build(item_vectors, m=8, ef_construction=50, seed=7),
        items=pa.table(items),
        purchases=purchases,
        popularity=np.arange(NUM_ITEMS, dtype=np.float32),
        metrics={"two_tower": {"recall_at_100": 0.25}},
    )


@pytest.fixture(scope="session")
def facts() -> Facts:
    return Facts(
        dataset="small",
        as_of=AS_OF,
        created=dt.datetime(2017, 12, 1, 3, tzinfo=dt.UTC),
        data_window=DataWindow(first=dt.date(2017, 1, 1), end=AS_OF, num_events=48),
        feature_services={"user": "user_tower", "item": "item_tower"},
        features_version=f"{AS_OF}-5f3c9a71",
        vocabulary_sizes={"user_id": NUM_USERS + 1},
        index_report=IndexReport(
            recall=1.0,
            k=10,
            ef=50,
            num_queries=6,
            size_bytes=1000,
            build_seconds=0.1,
            form="ip",
            weight_spread=0.0,
            parts=(DIMENSION,),
        ),
        business_weight=None,
        sparcode_report=None,
        configuration_digest="0123456789ab",
        code_version="0.1.0",
        commit="0f3c9a71" * 5,
        parent="2017-11-30-0f3c9a71",
        served=Served(**vars(DEFAULT), why="by default", metric="", num_users=0),
        seed=7,
        package_versions={"hnswlib": "0.8.0"},
    )


@pytest.fixture(scope="session")
def written(parts: Parts, facts: Facts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that no test changes."""
    bundles = tmp_path_factory.mktemp("bundles")
    return bundles / write(bundles, parts, facts)


KINDS = ("coffee", "crackers", "broth", "yoghurt")
BRANDS = ("acme", "bluebird", "corner", "dunmore", "everest", "fairfield", "gable", "harvest", "ivory", "juniper")
TYPED_NAMES = [f"{KINDS[number % 4]} {BRANDS[number // 4]}" for number in range(NUM_ITEMS)]
"""Item 4 b + t is of kind t and brand b; fish (even rows) are coffee and broth."""


@pytest.fixture(scope="session")
def written_words(parts: Parts, facts: Facts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a sparse index over the names of items."""
    fields = fields_of(parts.encoder.schema)
    items = parts.items.set_column(1, "item_name", pa.array(TYPED_NAMES))
    words = items.append_column("aisle", items.column("category"))
    vocabulary, counts = count_terms(terms_of(words, fields), fields, num_items=NUM_ITEMS)
    about = About(catalogue_digest(ITEMS), fields, Scoring(), 60.0, 0.01)
    index = SparseIndex.build(about, vocabulary, counts, None)
    bundles = tmp_path_factory.mktemp("words")
    index.save(bundles / "sparse")
    own = facts.model_copy(update={"sparse_report": index.report(bundles / "sparse")})
    return bundles / write(bundles, dataclasses.replace(parts, items=items, sparse=bundles / "sparse"), own)


@pytest.fixture(scope="session")
def written_weighted(
    parts: Parts, facts: Facts, item_vectors: npt.NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle whose index ranks by margin^.5, over vectors of two models."""
    weights = np.random.default_rng(5).uniform(0.3, 1, NUM_ITEMS).astype(np.float32)
    index = AugmentedIndex.build(weighted(item_vectors, weights), m=8, ef_construction=50, seed=7)
    report = dataclasses.replace(
        facts.index_report, form="augmented", weight_spread=log_weight_spread(weights), parts=(5, 3)
    )
    weighed = facts.model_copy(
        update={"index_report": report, "business_weight": BusinessWeight(name="margin", power=0.5)}
    )
    bundles = tmp_path_factory.mktemp("weighted")
    return bundles / write(bundles, dataclasses.replace(parts, item_weights=weights, index=index), weighed)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the bundle for a test to spoil."""
    return Path(shutil.copytree(written, tmp_path / written.name))


@pytest.fixture(scope="session")
def sign() -> Callable[..., Path]:
    """Makes the manifest of a changed folder agree with its files again; renames the folder and returns it."""

    def sign(folder: Path, **changes: Any) -> Path:
        files = describe_files(folder)
        manifest = read_manifest(folder)
        version = version_of(manifest.facts, files)
        changed = manifest.model_copy(update={"files": files, "bundle_version": version, **changes})
        write_manifest(folder, changed)
        return folder.rename(folder.with_name(version))

    return sign


@pytest.fixture(scope="session")
def hollow(facts: Facts) -> Callable[..., str]:
    """Writes what publishing and retention read of a bundle: a manifest, and a file to be counted."""

    def hollow(bundles: Path, number: int, *, created: dt.datetime | None = None, size_bytes: int = 100) -> str:
        version = f"2017-12-{number:02}-{number:08x}"
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            bundle_version=version,
            facts=facts.model_copy(update={"created": created or facts.created + dt.timedelta(days=number)}),
            dataset_schema=Schema(),
            num_items=NUM_ITEMS,
            num_users=NUM_USERS,
            dimension=DIMENSION,
            metrics={"two_tower": {"recall_at_100": number / 100}},
            files={},
        )
        (bundles / version).mkdir(parents=True)
        write_manifest(bundles / version, manifest)
        (bundles / version / "vectors").write_bytes(bytes(size_bytes))
        return version

    return hollow


class Killed(BaseException):
    """No `except Exception` and no `ignore_errors` hides it."""


@dataclasses.dataclass
class Life:
    """How many more changes of the file system a process makes before it is killed."""

    steps_left: int

    @property
    def ended(self) -> bool:
        return self.steps_left < 0

    def step(self) -> None:
        self.steps_left -= 1
        if self.ended:
            raise Killed


CHANGES = ("mkdir", "symlink", "rename", "replace", "unlink", "rmdir", "fsync", "chmod")


@pytest.fixture(scope="session")
def dying() -> Callable[[int], AbstractContextManager[Life]]:
    """Kills the block at a step of those that change the file system; no clean-up gets to change it after that.

    A killed write has written half.
    """

    @contextmanager
    def dying(step: int) -> Iterator[Life]:
        life, write = Life(step), os.write

        def mortal(change: Callable[..., Any]) -> Callable[..., Any]:
            def changed(*arguments: Any, **options: Any) -> Any:
                life.step()
                return change(*arguments, **options)

            return changed

        def mortal_write(descriptor: int, content: bytes) -> int:
            if life.steps_left == 0:
                write(descriptor, content[: len(content) // 2])
            life.step()
            return write(descriptor, content)

        with pytest.MonkeyPatch.context() as patch:
            for name in CHANGES:
                patch.setattr(os, name, mortal(getattr(os, name)))
            patch.setattr(os, "write", mortal_write)
            with suppress(Killed):
                yield life

    return dying


@pytest.fixture(scope="session")
def online(encoder: Encoder) -> pa.Table:
    """What the online store holds: u1, u4, u3 without a past, and n1, who came after the towers were fitted."""
    schema = pa.schema([("user_id", pa.string()), *view_schema(encoder.schema, "user")])
    past = {
        "user_as_of_seconds": AS_OF_SECONDS,
        "user_num_events": 7,
        "user_num_items": 3,
        "user_num_days": 5,
        "user_value": 12.5,
        "user_last_seconds": AS_OF_SECONDS - 4 * DAY,
        "user_history": ["i2", "i1", "i0"],
        "user_history_seconds": [AS_OF_SECONDS - days * DAY for days in (4, 5, 7)],
        "user_history_events": [2, 2, 3],
        "age": "young",
    }
    nothing = {"user_as_of_seconds": AS_OF_SECONDS, "user_num_events": 0, "user_history": []}
    other = past | {"user_num_events": 1, "user_history": ["i39"], "user_history_seconds": [AS_OF_SECONDS - 2 * DAY]}
    other["user_history_events"] = [1]
    rows = [{"user_id": "u1", **past}, {"user_id": "u3", **nothing}, {"user_id": "u4", **other}]
    return pa.Table.from_pylist([*rows, {"user_id": "n1", **past}], schema=schema)


@pytest.fixture(scope="session")
def online_file(online: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("online") / "users.parquet"
    pq.write_table(online, path)
    return path


@pytest.fixture(scope="session")
def bundle(written: Path) -> Bundle:
    return Bundle.open(written)


@pytest.fixture(scope="session")
def read_users(online: pa.Table) -> Callable[[list[str]], pa.Table]:
    read: Callable[[list[str]], pa.Table] = runpy.run_path(str(HERE / "serve_for_tests.py"))["reader"](online)
    return read


@pytest.fixture(scope="session")
def recommender(bundle: Bundle, read_users: Callable[[list[str]], pa.Table]) -> Recommender:
    retrievers = retrievers_of(
        bundle,
        RankingConfig(
            max_fetch=30, fusion_weights={"two_tower": 1.0, "repeat": 2.0}, fusion_rank_constant=60, fusion_depth=20
        ),
        ef_search=50,
    )
    return Recommender(bundle, read_users, retrievers=retrievers, default_retriever="fused")
