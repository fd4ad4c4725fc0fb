"""Is the bundle as large as it should be, and is there room for those to come?"""

from __future__ import annotations

import shutil

from serving.manifest import Manifest
from twinspire.gate_report import Check, Number
from twinspire.pipeline.gate_checks.candidate import Candidate, Look

MEGABYTE = 1e6


def bundle_size(candidate: Candidate) -> Check:
    """Bytes of the bundle, as a ratio of the night before and against a limit of their own."""
    limits, size = candidate.limits, size_of(candidate.manifest)
    problems = []
    if limits.max_bundle_bytes is not None and size > limits.max_bundle_bytes:
        problems.append(f"expected at most {limits.max_bundle_bytes / MEGABYTE:,.2f} MB (gates.max_bundle_bytes)")
    parent, beside = candidate.parent_manifest, ""
    found: dict[str, Number] = {"size_bytes": size}
    if parent is not None:
        ratio = size / max(size_of(parent), 1)
        beside = f", {ratio:.2f} of the {size_of(parent) / MEGABYTE:,.2f} MB of the night before"
        lowest, highest = limits.min_size_ratio or 0.0, limits.max_size_ratio or float("inf")
        if not lowest <= ratio <= highest:
            problems.append(f"expected {lowest:g} to {highest:g} of it")
        found["ratio"] = ratio
    if parent is None and limits.max_bundle_bytes is None:
        return Check.not_applicable("bundle_size", "there is no bundle of a night before, and no limit", found=found)
    return Check.judged(
        "bundle_size",
        not problems,
        f"the bundle has {size / MEGABYTE:,.2f} MB{beside}" + "".join(f"; {problem}" for problem in problems),
        "look with `twinspire bundles diff` which file it is; if it is meant, skip the check once",
        found=found,
        expected={
            "min_ratio": limits.min_size_ratio,
            "max_ratio": limits.max_size_ratio,
            "max_bytes": limits.max_bundle_bytes,
        },
    )


def disk_space(candidate: Candidate) -> Check:
    """Free bytes where the bundles lie, in bundles of this size."""
    free, size = shutil.disk_usage(candidate.paths.bundles).free, size_of(candidate.manifest)
    room, lowest = free / max(size, 1), candidate.limits.min_free_bundles or 0.0
    return Check.judged(
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


CHECKS: dict[str, Look] = {"bundle_size": bundle_size, "disk_space": disk_space}
