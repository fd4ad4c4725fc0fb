"""The sparse index with items that were added since it was built, for typed words.

N items of the catalogue, A added ones, T terms.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from serving.sparse.bm25 import impacts_of_more
from serving.sparse.index import SparseIndex
from serving.sparse.terms import Vocabulary, count_terms, terms_of


def with_items(index: SparseIndex, items: pa.Table) -> SparseIndex:
    """The index with further items behind its own, and their terms that are new behind its own.

    Terms count what they do in the catalogue; a new one counts as the rarest. What the catalogue's own terms count
    stays. Added items get no terms by expansion.

    Args:
        index: Over the catalogue.
        items: A items, with the columns of the index's fields.
    """
    fields, own = index.about.fields, index.vocabulary
    found, more = count_terms(terms_of(items, fields), fields, num_items=items.num_rows)
    number_of = {key: number for number, key in enumerate(zip(own.field_of.tolist(), own.terms, strict=True))}
    keys = list(zip(found.field_of.tolist(), found.terms, strict=True))
    new = [key for key in keys if key not in number_of]
    number_of |= {key: len(own) + place for place, key in enumerate(new)}
    places, new_fields = (
        np.array([number_of[key] for key in keys], np.int64),
        np.array([key[0] for key in new], np.int16),
    )
    vocabulary = Vocabulary(
        fields, np.concatenate([own.field_of, new_fields]), (*own.terms, *(term for _, term in new))
    )
    rows = np.repeat(np.arange(items.num_rows), np.diff(more.indptr))
    added = sp.csr_array((more.data, (rows, places[more.indices])), shape=(items.num_rows, len(vocabulary)))
    catalogue = _widened(index.counts, len(vocabulary))
    by_item = _widened(index.impacts.T.tocsr(), len(vocabulary))
    further = impacts_of_more(added, vocabulary.field_of, index.about.scoring, counts=catalogue, impacts=by_item)
    lists = sp.vstack([by_item, further.astype(np.float32)], format="csr").T.tocsr()
    lists.sort_indices()
    counts = sp.vstack([catalogue, added.astype(np.float32)], format="csr")
    return replace(index, vocabulary=vocabulary, impacts=lists, counts=counts)


def _widened(matrix: sp.csr_array[np.float32], num_terms: int) -> sp.csr_array[np.float32]:
    """The same with columns without entries behind."""
    return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], num_terms))
