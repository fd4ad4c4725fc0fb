"""Codes: SparCode's tables. Tokens of everybody, the codes they fall into, all items scored for each, a bias."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from artefacts import console, steps
from artefacts.files import json_text
from artefacts.paths import RunPaths
from beam_jobs import config, embed, score_codes, sweep_codes
from features import encoding, schema
from serving.retrieval import eligible, purchases, ranking, retrievers, vectors
from serving.sparcode import all_to_all, files, interactions, postings, retriever
from serving.sparcode.codebook import Codebook

CODE_BLOCK = 512


@dataclass(frozen=True)
class Exact:
    """What all scores of the codes with what is offered say of some users, the measure of every table."""

    tokens: interactions.Floats
    """[B, K_u D]."""
    rows: ranking.Rows
    """[B, k], the best items."""
    num_items: int
    """N."""

    def recall(self, table: retriever.SparCode) -> float:
        """Share of the best k that a table finds, mean over users; 0 for one who has none."""
        empty, moments = np.zeros(0, np.int32), np.zeros(len(self.tokens), np.int64)
        nothing_known = purchases.Purchases(np.append(moments, 0), empty, empty, empty.astype(np.int64), self.num_items)
        k = self.rows.shape[1]
        found, _ = table.retrieve(retrievers.UserQueries(nothing_known, moments, user_tokens=self.tokens), k)
        wanted = [rows[rows >= 0] for rows in self.rows]
        hits = [len(np.intersect1d(mine, best)) for mine, best in zip(found, wanted, strict=True)]
        return float(np.mean([num / max(len(best), 1) for num, best in zip(hits, wanted, strict=True)]))


@dataclass(frozen=True)
class Fitted:
    """What a fit left for the tables, loaded once."""

    folder: Path
    """Its files."""
    codebook: Codebook
    """Tokens -> codes."""
    interaction: interactions.Interaction
    """Scores codes against items."""
    shape: files.Shape
    """Its numbers."""

    @classmethod
    def load(cls, model: Path) -> Fitted:
        """Reads the SparCode in a model's folder."""
        folder = model / files.FOLDER
        interaction = interactions.load_interaction(folder / files.INTERACTION)
        return cls(folder, Codebook.load(folder / files.CODEBOOK), interaction, files.read_shape(model))


def make_codes(sections: config.CodesSections, beam: config.BeamConfig, paths: RunPaths) -> str:
    """Sweeps the users, scores their codes, measures the tables over the bias and keeps the chosen ones.

    Raises:
        ValueError: No bias that was tried reaches what is asked for.
    """
    settings = sections.sparcode
    assert settings is not None  # the step is planned only where there is one
    fitted = Fitted.load(paths.model)
    model = fitted.folder
    with steps.fresh_folder(paths.codes) as folder, console.progress("SparCode tables"):
        tokenizers: dict[schema.Tower, str] = {"user": files.TOKENIZER, "item": files.ITEM_TOKENIZER}
        for tower, name in tokenizers.items():
            _embed(beam, paths, model / name, folder / f"{tower}_tokens", tower=tower)
        items = folder / "item_tokens.npy"
        np.save(items, vectors.read_vectors(folder / "item_tokens"), allow_pickle=False)
        shutil.rmtree(folder / "item_tokens")
        withdrawn = eligible.withdrawn_rows(paths.tables, paths.model / "encoder")
        options = beam.pipeline_options()
        sweep = sweep_codes.SweepCodes(model / files.CODEBOOK)
        sweep_codes.run(sweep, folder / "user_tokens", out=folder / "sweep", options=options)
        keys, counts = sweep_codes.read_codes(folder / "sweep")
        # The widest table that is asked about: others are cut from it.
        bias = fitted.shape.bias if settings.controlled_bias is None else settings.controlled_bias
        rows = _write_offered(withdrawn, folder / "offered.npy", items) if len(withdrawn) else None
        to_score = score_codes.ScoringFiles(model / files.CODEBOOK, model / files.INTERACTION, items, rows)
        transform = score_codes.ScoreCodes(to_score, score_codes.ScoringSettings(bias, settings.posting_cap))
        began = time.perf_counter()
        score_codes.run(transform, keys, block_size=CODE_BLOCK, out=folder / "scored", options=options)
        seconds = time.perf_counter() - began
        encoder = encoding.Encoder.load(paths.model / "encoder")
        item_ids = encoder.item_ids.ids(np.arange(1, len(encoder.item_ids)))
        writer = postings.PostingsWriter(
            folder / "widest",
            num_items=len(item_ids),
            bias=bias,
            cap=settings.posting_cap,
            codebook=fitted.codebook.digest,
            catalogue=postings.catalogue_digest(item_ids),
            interaction=fitted.interaction.digest,
        )
        score_codes.collect(folder / "scored", keys, writer)
        shutil.rmtree(folder / "scored")
        rng = np.random.default_rng(sections.seed)
        k = max(sections.ks)
        exact = _exact(
            fitted, folder / "user_tokens", items, withdrawn, bias, num_queries=settings.num_queries, k=k, rng=rng
        )
        report = _choose(settings, fitted, folder, exact, num_tokens=int(counts.sum()), seconds=seconds)
        (folder / files.REPORT).write_text(json_text(asdict(report), indent=2))
    return (
        f"{report.num_codes:,} codes of {report.num_tokens:,} tokens, {report.num_postings:,} postings, "
        f"{report.size_bytes / 1e6:.1f} MB at bias {report.bias:.2f}; recall@{report.k} {report.recall:.3f} of all "
        f"scores; scored in {report.build_seconds:.0f} s"
    )


def biases(scores: interactions.Floats, highest: float, num_points: int) -> list[float]:
    """Biases to try, from the highest down: each leaves a smaller share of the postings, at even steps.

    Args:
        scores: [P] scores of all postings at the highest bias, above 0.
        highest: That bias.
        num_points: How many.
    """
    shares = np.arange(num_points) / num_points
    cuts = np.quantile(scores, shares[1:]) if len(scores) else np.zeros(0)
    return [highest, *(float(highest - cut) for cut in np.unique(cuts))]


def _embed(beam: config.BeamConfig, paths: RunPaths, tower_file: Path, out: Path, *, tower: schema.Tower) -> None:
    features = paths.catalogue(paths.as_of) / f"{tower}s.parquet"
    transform = embed.Embed(features, paths.model / "encoder", tower_file, tower=tower)
    embed.run(transform, features, out=out, options=beam.pipeline_options())


def _write_offered(withdrawn: eligible.Items, target: Path, items: Path) -> Path:
    """Writes the rows of the items that are scored: [N - W] int64."""
    num_items = len(np.load(items, mmap_mode="r", allow_pickle=False))
    np.save(target, eligible.eligible_rows(withdrawn, num_items=num_items), allow_pickle=False)
    return target


def _exact(
    fitted: Fitted,
    user_tokens: Path,
    items: Path,
    withdrawn: eligible.Items,
    bias: float,
    *,
    num_queries: int,
    k: int,
    rng: np.random.Generator,
) -> Exact:
    tokens = vectors.read_vectors(user_tokens)
    some = np.sort(rng.permutation(len(tokens))[:num_queries])
    item_tokens = np.load(items, mmap_mode="r", allow_pickle=False)
    offered = eligible.everything_but(withdrawn, num_items=len(item_tokens))
    rows, _ = all_to_all.search(
        tokens[some],
        item_tokens,
        interaction=fitted.interaction,
        bias=bias,
        codebook=fitted.codebook,
        k=k,
        offered=None if offered is None else offered.mask,
    )
    return Exact(tokens[some], rows, len(item_tokens))


def _choose(
    settings: config.SparCodeTablesConfig,
    fitted: Fitted,
    folder: Path,
    exact: Exact,
    *,
    num_tokens: int,
    seconds: float,
) -> files.SparCodeReport:
    """Measures the curve, cuts the chosen tables, and puts what is served into one folder."""
    widest = folder / "widest"
    full = postings.read_postings(widest)
    _, _, scores = full.lists(np.arange(len(full.keys)))
    curve: list[files.CurvePoint] = []
    made: dict[float, Path] = {}
    for number, bias in enumerate(biases(scores, full.bias, settings.curve_points)):
        path = widest if bias == full.bias else folder / f"cut-{number}"
        if path != widest:
            postings.truncated(widest, path, bias)
        tables = postings.read_postings(path)
        recall = exact.recall(retriever.SparCode(fitted.codebook, tables, num_tokens=fitted.shape.num_user_tokens))
        curve.append(files.CurvePoint(bias, tables.size_bytes, recall))
        made[bias] = path
    chosen = choose(curve, settings)
    served = folder / files.SERVED
    served.mkdir()
    for name in (files.TOKENIZER, files.CODEBOOK):
        shutil.copyfile(fitted.folder / name, served / name)
    made[chosen.bias].rename(served / files.POSTINGS)
    for path in made.values():
        shutil.rmtree(path, ignore_errors=True)
    tables = postings.read_postings(served / files.POSTINGS)
    return files.SparCodeReport(
        num_codes=len(tables.keys),
        num_tokens=num_tokens,
        num_postings=int(tables.counts().sum()),
        size_bytes=chosen.size_bytes,
        bias=chosen.bias,
        cap=settings.posting_cap,
        recall=chosen.recall,
        k=exact.rows.shape[1],
        num_queries=len(exact.tokens),
        build_seconds=seconds,
        curve=tuple(sorted(curve, key=lambda point: point.size_bytes)),
    )


def choose(curve: Sequence[files.CurvePoint], settings: config.SparCodeTablesConfig) -> files.CurvePoint:
    """The point of a curve that the targets ask for; the largest tables where there is no target.

    Raises:
        ValueError: None reaches it.
    """
    largest = max(curve, key=lambda point: point.size_bytes)
    if settings.target_size_bytes is not None:
        fitting = [point for point in curve if point.size_bytes <= settings.target_size_bytes]
        if not fitting:
            smallest = min(point.size_bytes for point in curve)
            raise ValueError(
                f"sparcode.target_size_bytes is {settings.target_size_bytes:,}, and the smallest tables tried have "
                f"{smallest:,}; allow more, lower sparcode.posting_cap, or raise sparcode.curve_points"
            )
        return max(fitting, key=lambda point: point.size_bytes)
    if settings.target_recall is not None:
        reaching = [point for point in curve if point.recall >= settings.target_recall]
        if not reaching:
            raise ValueError(
                f"sparcode.target_recall is {settings.target_recall}, and the largest tables have "
                f"{largest.recall:.3f}; raise sparcode.posting_cap ({settings.posting_cap}), or lower the target"
            )
        return min(reaching, key=lambda point: point.size_bytes)
    return largest
