"""Does the index find what is there, and is everything in it? SparCode's tables likewise."""

from __future__ import annotations

import numpy as np

from serving import bundle as layout
from serving.index import read_shape
from serving.postings import read_postings
from serving.sparcode_parts import POSTINGS
from twinspire.gate_report import Check
from twinspire.pipeline.gate_checks.candidate import Candidate, Look
from twinspire.pipeline.withdrawn import withdrawn_rows


def index_recall(candidate: Candidate) -> Check:
    """Recall against exact search, as measured when the index was built."""
    report, lowest = candidate.manifest.facts.index_report, candidate.config.index.min_recall
    return Check.judged(
        "index_recall",
        report.recall >= lowest,
        f"the index finds {report.recall:.4f} of the exact top {report.k} at ef {report.ef}, over "
        f"{report.num_queries:,} users; expected at least {lowest:g}",
        "raise index.ef_search, index.m or index.ef_construction",
        found={"recall": report.recall},
        expected={"min_recall": lowest},
    )


def index_items(candidate: Candidate) -> Check:
    """Items in the index, the vectors and the catalogue; those that were withdrawn are in no index."""
    wanted = len(candidate.encoder.item_ids) - 1
    num_withdrawn = len(withdrawn_rows(candidate.paths))
    vectors = np.load(candidate.folder / layout.ITEM_VECTORS, mmap_mode="r", allow_pickle=False)
    found = {
        "index": read_shape(candidate.folder / layout.INDEX)[0],
        "vectors": len(vectors),
        "manifest": candidate.manifest.num_items,
    }
    shown = ", ".join(f"{count:,} in the {name}" for name, count in found.items())
    expected = f"{wanted:,} each, the items of the catalogue"
    if num_withdrawn:
        expected += f", but {wanted - num_withdrawn:,} in the index, as {num_withdrawn:,} of them were withdrawn"
    return Check.judged(
        "index_items",
        found == {"index": wanted - num_withdrawn, "vectors": wanted, "manifest": wanted},
        f"there are {shown}; expected {expected}",
        "run the index step again with --force, and what follows it",
        found=found,
        expected={"items": wanted, "withdrawn": num_withdrawn},
    )


def sparcode(candidate: Candidate) -> Check:
    """SparCode's tables: recall, where it was asked for, and whether they are of this catalogue."""
    report, settings = candidate.manifest.facts.sparcode_report, candidate.config.sparcode
    if report is None or settings is None:
        return Check.not_applicable("sparcode", "SparCode is not configured")
    postings = read_postings(candidate.folder / layout.SPARCODE / POSTINGS)
    num_items, num_empty = candidate.manifest.num_items, int((postings.counts() == 0).sum())
    lowest = settings.target_recall or 0.0
    holds = (
        postings.num_items == num_items
        and len(postings.keys) == report.num_codes
        and num_empty < max(report.num_codes, 1)
        and report.recall >= lowest
    )
    return Check.judged(
        "sparcode",
        holds,
        f"the tables have {len(postings.keys):,} codes over {postings.num_items:,} items, {num_empty:,} of them "
        f"empty, and find {report.recall:.3f} of all scores; expected {report.num_codes:,} codes over {num_items:,} "
        f"items, not all empty, and at least {lowest:g}",
        "run the codes step again with --force, and what follows it; for recall, raise sparcode.posting_cap",
        found={"codes": len(postings.keys), "items": postings.num_items, "empty": num_empty, "recall": report.recall},
        expected={"codes": report.num_codes, "items": num_items, "min_recall": settings.target_recall},
    )


CHECKS: dict[str, Look] = {"index_recall": index_recall, "index_items": index_items, "sparcode": sparcode}
