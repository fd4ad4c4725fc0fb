"""The gates of a night: all checks of a bundle, each made whether or not others fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from artefacts.console import progress
from artefacts.files import replace_text
from artefacts.paths import RunPaths
from evaluation.config import CHECK_NAMES, GatesSections
from evaluation.gates import data, drift, features, index, model, smoke
from evaluation.gates.candidate import Candidate, Look
from evaluation.gates.report import Check, GateError, GateReport

LOOKS: Mapping[str, Look] = {
    **data.CHECKS,
    **drift.CHECKS,
    **features.CHECKS,
    **model.CHECKS,
    **index.CHECKS,
    **smoke.CHECKS,
}
# A check with all of its limits at null is off; the others can only be skipped.
LIMITS: Mapping[str, tuple[str, ...]] = {
    "volume": ("min_volume_ratio", "max_volume_ratio"),
    "quarantine": ("max_quarantine_share",),
    "nulls": ("max_null_rise",),
    "new_categories": ("max_new_category_share",),
    "numeric_drift": ("max_numeric_drift",),
    "category_drift": ("max_category_drift",),
    "freshness": ("max_feature_age_days",),
    "parity": ("parity_users",),
    "held_out_recall": ("recall_margin",),
    "vectors": ("norm_tolerance",),
    "collapse": ("max_common_share", "max_mean_cosine", "min_distinct_ratio"),
    "bundle_size": ("min_size_ratio", "max_size_ratio", "max_bundle_bytes"),
    "disk_space": ("min_free_bundles",),
    "answers": ("smoke_k",),
    "exclude_bought": ("smoke_k",),
}


def check_gates(sections: GatesSections, paths: RunPaths, *, parent: str | None) -> str:
    """Checks the bundle of the night and writes the report to `paths.gates`.

    Args:
        sections: What is read of the configuration.
        paths: Of the run folder.
        parent: Version of the bundle of the previous night; None where there is none.

    Returns:
        One line of outcome.

    Raises:
        GateError: A check failed; the error has the report, which is written all the same.
    """
    candidate = Candidate(sections, paths, paths.bundle_name.read_text(), parent)
    with progress("gates", total=len(CHECK_NAMES)) as advance:
        checks = []
        for name in CHECK_NAMES:
            checks.append(check(candidate, name))
            advance(1)
    report = GateReport(str(paths.as_of), candidate.version, parent, tuple(checks))
    replace_text(paths.gates, report.to_json())
    if not report.passed:
        raise GateError(report)
    return report.outcome()


def check(candidate: Candidate, name: str) -> Check:
    """Makes one check, unless it is off; one that cannot be made has failed."""
    limits = LIMITS.get(name, ())
    if limits and all(getattr(candidate.limits, limit) is None for limit in limits):
        named = " and ".join(f"gates.{limit}" for limit in limits)
        return Check(name, "skipped", f"turned off by {named} at null")
    try:
        found = LOOKS[name](candidate)
    # What is too broken to be checked must not be published, and the other checks are still made.
    except Exception as error:
        found = Check.measured(
            name,
            False,
            f"could not be made ({type(error).__name__}: {error}); expected files that can be read",
            "run the step that writes them again with --force",
        )
    if found.outcome == "failed" and name in candidate.limits.skip:
        return replace(found, outcome="skipped", sentence=f"skipped by gates.skip: {found.sentence}", to_do="")
    return found
