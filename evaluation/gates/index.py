"""Checks of the index, of SparCode's tables, and of the size of the bundle."""

from __future__ import annotations

import shutil

import numpy as np

from evaluation.gates.candidate import NEXT_NIGHT, NO_PARENT, Candidate, Look
from evaluation.gates.report import Check, Number
from serving.bundles import bundle as layout
from serving.bundles.manifest import Manifest
from serving.retrieval.distinct import num_indexed
from serving.retrieval.eligible import withdrawn_rows
from serving.sparcode.files import POSTINGS
from serving.sparcode.postings import read_postings


def index_recall(candidate: Candidate) -> Check:
    """Recall against exact search, as measured when the index was built."""
    report, lowest = candidate.manifest.facts.index_report, candidate.sections.min_recall
    return Check.measured(
        "index_recall",
        report.recall >= lowest,
        f"the index finds {report.recall:.4f} of the exact top {report.k} at ef {report.ef}, over {report.asked()}; "
        f"expected at least {lowest:g}",
        "set index.ef_search and index.form to null and run the index step again: it then chooses both for min_recall",
        found={"recall": report.recall, "num_below_half": report.num_below_half},
        expected={"min_recall": lowest},
    )


def index_items(candidate: Candidate) -> Check:
    """Items in the index, the vectors and the catalogue; those that were withdrawn are in no index."""
    wanted = len(candidate.encoder.item_ids) - 1
    num_withdrawn = len(withdrawn_rows(candidate.paths.tables, candidate.paths.model / "encoder"))
    vectors = np.load(candidate.folder / layout.ITEM_VECTORS, mmap_mode="r", allow_pickle=False)
    found = {
        "index": num_indexed(candidate.manifest.facts.index_report.form, candidate.folder / layout.INDEX),
        "vectors": len(vectors),
        "manifest": candidate.manifest.num_items,
    }
    shown = ", ".join(f"{count:,} in the {name}" for name, count in found.items())
    expected = f"{wanted:,} each, the items of the catalogue"
    if num_withdrawn:
        expected += f", but {wanted - num_withdrawn:,} in the index, as {num_withdrawn:,} of them were withdrawn"
    return Check.measured(
        "index_items",
        found == {"index": wanted - num_withdrawn, "vectors": wanted, "manifest": wanted},
        f"there are {shown}; expected {expected}",
        "run the index step again with --force, and what follows it",
        found=found,
        expected={"items": wanted, "withdrawn": num_withdrawn},
    )


def sparcode(candidate: Candidate) -> Check:
    """SparCode's tables: recall, where it was asked for, and whether they are of this catalogue."""
    report, settings = candidate.manifest.facts.sparcode_report, candidate.sections.sparcode
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
    return Check.measured(
        "sparcode",
        holds,
        f"the tables have {len(postings.keys):,} codes over {postings.num_items:,} items, {num_empty:,} of them "
        f"empty, and find {report.recall:.3f} of all scores; expected {report.num_codes:,} codes over {num_items:,} "
        f"items, not all empty, and at least {lowest:g}",
        "run the codes step again with --force, and what follows it; for recall, raise sparcode.posting_cap",
        found={"codes": len(postings.keys), "items": postings.num_items, "empty": num_empty, "recall": report.recall},
        expected={"codes": report.num_codes, "items": num_items, "min_recall": settings.target_recall},
    )


def sparse(candidate: Candidate) -> Check:
    """The sparse index: whether it is of this catalogue, and finds anything."""
    report = candidate.manifest.facts.sparse_report
    if report is None:
        return Check.not_applicable("sparse", "no sparse index is configured")
    found = np.load(candidate.folder / layout.SPARSE / "counts_indptr.npy", allow_pickle=False)
    num_items, wanted = len(found) - 1, candidate.manifest.num_items
    num_empty = int((np.diff(found) == 0).sum())
    return Check.measured(
        "sparse",
        num_items == wanted and num_empty < wanted,
        f"the sparse index has {report.num_terms:,} terms of {num_items:,} items, {num_empty:,} of them without any; "
        f"expected {wanted:,} items, not all without a term",
        "look at dataset.item_columns and sparse.fields, and run the index step again with --force",
        found={"terms": report.num_terms, "items": num_items, "empty": num_empty},
        expected={"items": wanted},
    )


MEGABYTE = 1e6


def bundle_size(candidate: Candidate) -> Check:
    """Bytes of the bundle, as a ratio of the previous night and against a limit of their own."""
    limits, size = candidate.limits, size_of(candidate.manifest)
    problems = []
    if limits.max_bundle_bytes is not None and size > limits.max_bundle_bytes:
        problems.append(f"expected at most {limits.max_bundle_bytes / MEGABYTE:,.2f} MB (gates.max_bundle_bytes)")
    parent, compared = candidate.parent_manifest, ""
    found: dict[str, Number] = {"size_bytes": size}
    if parent is not None:
        ratio = size / max(size_of(parent), 1)
        compared = f", {ratio:.2f} of the {size_of(parent) / MEGABYTE:,.2f} MB of the previous night"
        lowest, highest = limits.min_size_ratio or 0.0, limits.max_size_ratio or float("inf")
        if not lowest <= ratio <= highest:
            problems.append(f"expected {lowest:g} to {highest:g} of it")
        found["ratio"] = ratio
    if parent is None and limits.max_bundle_bytes is None:
        why = f"{NO_PARENT}, and no limit"
        return Check.not_applicable("bundle_size", why, NEXT_NIGHT, found=found)
    return Check.measured(
        "bundle_size",
        not problems,
        f"the bundle has {size / MEGABYTE:,.2f} MB{compared}" + "".join(f"; {problem}" for problem in problems),
        "look with `twinspire bundles diff` which file it is; if it is intended, skip the check once",
        found=found,
        expected={
            "min_ratio": limits.min_size_ratio,
            "max_ratio": limits.max_size_ratio,
            "max_bytes": limits.max_bundle_bytes,
        },
    )


def disk_space(candidate: Candidate) -> Check:
    """Free bytes on the disk of the bundles, in bundles of this size."""
    free, size = shutil.disk_usage(candidate.paths.bundles).free, size_of(candidate.manifest)
    room, lowest = free / max(size, 1), candidate.limits.min_free_bundles or 0.0
    return Check.measured(
        "disk_space",
        room >= lowest,
        f"{free / MEGABYTE:,.2f} MB are free, room for {room:,.1f} more bundles; expected at least {lowest:g}",
        "remove old bundles (bundles.keep, `twinspire bundles prune`), or make room",
        found={"free_bytes": free, "bundles": room},
        expected={"min_bundles": candidate.limits.min_free_bundles},
    )


def size_of(manifest: Manifest) -> int:
    """Bytes of all files that a manifest names."""
    return sum(entry.size_bytes for entry in manifest.files.values())


CHECKS: dict[str, Look] = {
    "index_recall": index_recall,
    "index_items": index_items,
    "sparcode": sparcode,
    "sparse": sparse,
    "bundle_size": bundle_size,
    "disk_space": disk_space,
}
