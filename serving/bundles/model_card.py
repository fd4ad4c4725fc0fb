"""The model card of a bundle: its manifest in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from features.schema import Schema
from serving.bundles.manifest import Facts, Manifest


def model_card(manifest: Manifest) -> str:
    """The model card of a bundle as Markdown."""
    facts, window, report = manifest.facts, manifest.facts.data_window, manifest.facts.index_report
    lines = [
        f"# {facts.dataset}, bundle {manifest.bundle_version}",
        "",
        "Proposes items for users: a two-tower model finds items near the user's vector; the user's own repeated "
        "purchases and popular items complete the list.",
        "",
        "## Data",
        "",
        f"- {window.num_events:,} events from {window.first} up to, not including, {window.end}.",
        f"- Everything before {facts.as_of} 00:00 UTC is known, nothing from then on.",
        f"- {manifest.num_users - 1:,} users and {manifest.num_items:,} items; value of an event: "
        f"{manifest.dataset_schema.value_meaning}.",
        *_columns(manifest.dataset_schema),
        "",
        "## Model",
        "",
        f"- Vectors of {manifest.dimension} numbers{_parts(report.parts)}, L2-normalised; the score is their inner "
        f"product{_weight(facts)}.",
        f"- Index of the form `{report.form}`: recall@{report.k} {report.recall:.3f} against exact search at ef "
        f"{report.ef} over {report.num_queries:,} users; {report.size_bytes / 1e6:.1f} MB, built in "
        f"{report.build_seconds:.1f} s.",
        f"- Feature services: {', '.join(sorted(facts.feature_services.values()))}.",
        f"- Seed {facts.seed}, configuration {facts.configuration_digest}, code {facts.code_version}.",
        "",
        "## Quality",
        "",
        *(_figures(manifest.metrics) if manifest.metrics else ["Not measured when the bundle was made."]),
        "",
        "## Limits",
        "",
        "- Users without events before the cut get popular items; the answer gives the reason.",
        "- Items first seen after the cut are not proposed before the next bundle.",
        "- Offline recall rewards what people found by themselves; it does not measure the effect of a recommendation.",
        "",
    ]
    return "\n".join(lines)


def _parts(widths: Sequence[int]) -> str:
    return f", {' + '.join(map(str, widths))} side by side" if len(widths) > 1 else ""


def _weight(facts: Facts) -> str:
    weight = facts.business_weight
    if weight is None:
        return ""
    return (
        f" times the item's business weight w = {weight.name}^{weight.power:g}, at most 1; the standard deviation of "
        f"log w is {facts.index_report.weight_spread:.3f}"
    )


def _columns(schema: Schema) -> Iterator[str]:
    for tower, used in (("user", schema.user_columns), ("item", schema.item_columns)):
        if used:
            described = ", ".join(f"{name} ({', '.join(kinds)})" for name, kinds in used.items())
            yield f"- Columns of the {tower} tower besides ids and statistics: {described}."


def _figures(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield "| figure | value |"
    yield "|---|---|"
    for name, value in _flatten(metrics, ""):
        yield f"| {name} | {f'{value:.4f}' if isinstance(value, float) else value} |"


def _flatten(metrics: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value
