"""Vectors of some items as they would be without events, so that choices for new items are made on many of them.

Shape letters: N items of the catalogue, D vector width, h items that are described as new.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.columns import ITEM_ID
from features.encoding import Encoder, Inputs
from serving.retrieval.vectors import ItemsAsNew
from training.co_purchase import with_factors_of
from training.config import TrainSections
from training.data.batches import without_events
from training.fit import Fitted
from training.negatives.known_positives import KnownPositives
from training.trainer import embed

SHARE = 0.1
"""Of the items that somebody has met."""


def items_as_new(
    sections: TrainSections, encoder: Encoder, fitted: Fitted, items: Inputs, known: KnownPositives
) -> ItemsAsNew:
    """Embeds a share of the items with events, drawn at random, by what they would be without any.

    Their counts are those of an item without events and their factors those that content suggests, by a regression
    without them; where towers do not know that state (`training.item_dropout` is 0), their ids are unknown, too, and
    they have no factors.

    It over-states how well the towers find new items: they have learned from the events of these, too, among those of
    others with the same content, and the users' histories hold them.

    Args:
        sections: What the step reads of the configuration, with chosen factors.
        encoder: Of the fit.
        fitted: Its towers.
        items: [N] inputs of all items at the moment.
        known: What users had met at the moment.
    """
    met = np.unique(known.items)
    drawn = np.random.default_rng(sections.seed).permutation(met)[: int(np.ceil(len(met) * SHARE))]
    rows = np.sort(drawn) - 1
    described = {name: values[rows].copy() for name, values in items.items()}
    is_new = np.zeros(encoder.item_ids.num_table_rows, np.bool_)
    is_new[rows + 1] = True
    without_events([described], is_new, encoder.without_events())
    if not sections.training.item_dropout:
        described[ITEM_ID][:] = 0

    def suggest(own: npt.NDArray[np.float32], pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        own = np.where(is_new[:, None], np.float32(0), own)
        return own if fitted.suggest is None else fitted.suggest(own, pairs[~is_new[pairs]])

    join = with_factors_of(encoder, known, towers=sections.towers, seed=sections.seed, suggest=suggest)
    return ItemsAsNew(rows, embed(join(fitted.learned).item, described))
