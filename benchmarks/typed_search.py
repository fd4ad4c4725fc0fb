"""How often a misspelled product name is found, and how fast: docs/serving.md.

    python benchmarks/typed_search.py --runs runs

Draws distinct names of the built-in dataset's items, changes one character of each at random (inserted, left out,
replaced, or swapped with the next one; the place may be a letter, a digit, a space or a sign), and searches. A name is
found if an item of that very name is among the first ten: several items may have one name. Needs the canonical tables
of a run (`twinspire ingest`) alone; the index is built here, as `sparse: {}` does.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from artefacts.paths import RunPaths  # noqa: E402
from features.schema import Schema  # noqa: E402
from serving.retrieval.purchases import Purchases  # noqa: E402
from serving.retrieval.retrievers import UserQueries  # noqa: E402
from serving.sparse.bm25 import Scoring  # noqa: E402
from serving.sparse.fields import fields_of  # noqa: E402
from serving.sparse.index import About, SparseIndex  # noqa: E402
from serving.sparse.terms import count_terms, terms_of  # noqa: E402
from serving.sparse.typed import ByWords, TypedWords  # noqa: E402
from twinspire.load_config import load  # noqa: E402

KINDS = ("insert", "delete", "replace", "swap")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
FIRST = 10


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "complete_journey.yaml")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--names", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    settings = load(asked.config)
    paths = RunPaths(asked.runs / settings.name, settings.as_of)
    typed, nobody = typed_words(settings.dataset, paths.tables / "items.parquet")
    distinct = sorted({name for name in typed.item_names if name})
    rng = np.random.default_rng(asked.seed)
    names = [distinct[place] for place in rng.choice(len(distinct), asked.names, replace=False)]
    begun = time.perf_counter()
    typed.prepare()
    num_words = len(typed.spelling.words)
    made = time.perf_counter() - begun
    print(
        f"{len(typed.item_names):,} items of {len(distinct):,} names, {num_words:,} words (prepared in "
        f"{made * 1000:.0f} ms), {asked.names} names drawn with seed {asked.seed}\n"
    )
    print("| typed | names | found in the first ten | by which a word was corrected | ms, mean | ms, 95% |")
    print("|---|---|---|---|---|---|")
    spelled = [(KINDS[rng.integers(len(KINDS))], name) for name in names]
    changed = [(kind, name, with_typo(name, kind, rng)) for kind, name in spelled]
    row(typed, nobody, "as it is", [(name, name) for name in names])
    row(typed, nobody, "with one typo", [(name, text) for _, name, text in changed])
    for kind in KINDS:
        row(typed, nobody, f"of them, {kind}", [(name, text) for own, name, text in changed if own == kind])


def typed_words(schema: Schema, items: Path) -> tuple[TypedWords, UserQueries]:
    """The index over the items of a table, and somebody who is not known."""
    table = pq.read_table(items)
    fields = fields_of(schema)
    vocabulary, counts = count_terms(terms_of(table, fields), fields, num_items=table.num_rows)
    about = About("", fields, Scoring(), None, 0.01)
    index = SparseIndex.build(about, vocabulary, counts, None)
    none = np.empty(0, np.int32)
    past = Purchases(np.zeros(2, np.int64), none, none, np.empty(0, np.int64), table.num_rows)
    return TypedWords(index, table.column("item_name").to_pylist()), UserQueries(past, np.zeros(1, np.int64))


def with_typo(name: str, kind: str, rng: np.random.Generator) -> str:
    """The name with one character inserted, left out, replaced by another, or swapped with a different next one."""
    while True:
        place, letter = int(rng.integers(len(name))), LETTERS[rng.integers(len(LETTERS))]
        text = {
            "insert": name[:place] + letter + name[place:],
            "delete": name[:place] + name[place + 1 :],
            "replace": name[:place] + letter + name[place + 1 :],
            "swap": name[:place] + name[place + 1 : place + 2] + name[place : place + 1] + name[place + 2 :],
        }[kind]
        if text.lower() != name.lower():
            return text


def row(typed: TypedWords, nobody: UserQueries, what: str, asked: list[tuple[str, str]]) -> None:
    """Prints how many names are found by what is typed."""
    num_found, num_corrected, taken = 0, 0, []
    for name, text in asked:
        begun = time.perf_counter()
        understood = typed.understand(text)
        rows, _ = ByWords(typed, understood).retrieve(nobody, FIRST)
        taken.append((time.perf_counter() - begun) * 1000)
        is_found = name in {typed.item_names[one] for one in rows[0][rows[0] >= 0].tolist()}
        num_found, num_corrected = num_found + is_found, num_corrected + bool(understood.corrected)
    share = num_found / max(len(asked), 1)
    print(
        f"| {what} | {len(asked)} | {share:.1%} | {num_corrected} | {np.mean(taken):.1f} | "
        f"{np.percentile(taken, 95):.1f} |"
    )


if __name__ == "__main__":
    main()
