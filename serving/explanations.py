"""Explanations of lists: which retrievers found an item, what it is like, and what counted.

D vector width, H items of a history, n items of a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from serving.answers import NUM_COUNTED, NUM_NEAR, NUM_TERMS, Explanation, Found, FoundInterest, NearItem, Ranked
from serving.bundles.bundle import Bundle
from serving.retrieval.interests import by_interest, interest_of
from serving.retrieval.ranking import Rows, Scores
from serving.retrieval.retrievers import Fused, Retriever, UserQueries
from serving.retrieval.vectors import unit_rows
from serving.second_look.retriever import SecondLook
from serving.served import SPARSE
from serving.sparse.hybrid import Hybrid
from serving.sparse.retriever import Sparse


def of_lists(
    bundle: Bundle, retrievers: Mapping[str, Retriever], ranked: Ranked, *, lane: Retriever | None = None
) -> list[list[Explanation]]:
    """Explains the lists of some users.

    Args:
        bundle: What was searched.
        retrievers: All of them, by name.
        ranked: The lists of B users, and who found them.
        lane: The sparse retriever that has filled places of them, too; None where there is none.

    Returns:
        For each user an explanation of each item of the list.
    """
    asked, users, depth = retrievers[ranked.retriever], ranked.users, ranked.depth
    names = {ranked.retriever: asked}
    if isinstance(asked, Fused | Hybrid | SecondLook):
        depth = max(depth, asked.depth)
        # One of them may have two names: the first is taken.
        named = {id(part): own for own, part in reversed(list(retrievers.items()))}
        names = _parts(asked, named)
    if lane is not None:
        names.setdefault(SPARSE, lane)
    lists = {own: part.retrieve(users, depth) for own, part in names.items()}
    by_vectors = {own for own, part in names.items() if part.needs_embeddings}
    answers = []
    for user, own_rows in enumerate(ranked.rows):
        found = own_rows[own_rows >= 0]
        places = {
            part: {int(row): place for place, row in enumerate(part_rows[user].tolist()) if row >= 0}
            for part, (part_rows, _) in lists.items()
        }
        near, interests = near_items(bundle, users, user, found), _interests(bundle, users, user, found)
        explained = [
            Explanation(
                found_by={
                    part: Found(rank=place[row] + 1, score=float(lists[part][1][user, place[row]]))
                    for part, place in places.items()
                    if row in place
                },
                near=near[position],
            )
            for position, row in enumerate(found.tolist())
        ]
        for explanation, interest in zip(explained, interests, strict=False):
            if by_vectors & explanation["found_by"].keys():
                explanation["interest"] = interest
        _add_matches(names.get(SPARSE), users, user, found, explained)
        if isinstance(asked, SecondLook):
            here = slice(user, user + 1)
            of_user = {part: (lists[part][0][here], lists[part][1][here]) for part in asked.parts}
            _add_counted(asked, users.of(np.array([user])), of_user, found, explained)
        answers.append(explained)
    return answers


def _parts(asked: Retriever, named: Mapping[int, str]) -> dict[str, Retriever]:
    """The retrievers whose lists one is made of, by name; itself where it makes its own."""
    if isinstance(asked, Hybrid | SecondLook):
        return dict(asked.parts)
    if isinstance(asked, Fused):
        return {name: part for own, _ in asked.parts for name, part in _parts(own, named).items()}
    return {named[id(asked)]: asked}


def _add_matches(
    sparse: Retriever | None, users: UserQueries, user: int, found: Rows, explained: Sequence[Explanation]
) -> None:
    """Adds the terms by which the sparse retriever has found items of one user's list."""
    if not isinstance(sparse, Sparse):
        return
    here = np.array([user])
    [query] = sparse.index.of_histories(users.purchases.of(here), users.as_of_seconds[here])
    terms = sparse.index.matches(query, found, most=NUM_TERMS)
    for explanation, matches in zip(explained, terms, strict=True):
        if SPARSE in explanation["found_by"]:
            explanation["matches"] = matches


def _add_counted(
    asked: SecondLook,
    users: UserQueries,
    lists: Mapping[str, tuple[Rows, Scores]],
    found: Rows,
    explained: Sequence[Explanation],
) -> None:
    """Adds what raised the scores of items that the second look has ranked; one filled in was no candidate of it."""
    ranked = [place for place, one in enumerate(explained) if lists.keys() & one["found_by"].keys()]
    for place, counted in zip(ranked, asked.counted(users, lists, found[ranked]), strict=True):
        explained[place]["counted"] = dict(list(counted.items())[:NUM_COUNTED])


def near_items(bundle: Bundle, users: UserQueries, user: int, found: Rows) -> list[list[NearItem]]:
    """The items of a user's history that are most like each of some items: [n] lists, most similar first."""
    own = users.purchases.indices[users.purchases.indptr[user] : users.purchases.indptr[user + 1]]
    if not len(own) or not len(found):
        return [[] for _ in found]
    cosines = unit_rows(bundle.vectors_of(found)) @ unit_rows(bundle.item_vectors[own]).T
    # An item that was bought before is its own nearest, which explains nothing.
    cosines[found[:, None] == own] = -np.inf
    return _nearest(bundle, own, cosines)


def _interests(bundle: Bundle, users: UserQueries, user: int, found: Rows) -> list[FoundInterest]:
    """For each found item the vector that finds it, of one user; nothing where users have one vector, or none here."""
    vectors, width = users.query_embeddings, bundle.item_vectors.shape[1]
    if vectors is None or vectors.shape[1] == width:
        return []
    of_user = by_interest(vectors[user : user + 1], width=width)[0]
    own = users.purchases.indices[users.purchases.indptr[user] : users.purchases.indptr[user + 1]]
    near: list[list[NearItem]] = [[] for _ in of_user]
    if len(own):
        near = _nearest(bundle, own, unit_rows(of_user) @ unit_rows(bundle.item_vectors[own]).T)
    numbers = interest_of(of_user, bundle.vectors_of(found)).tolist()
    return [FoundInterest(number=number + 1, near=near[number]) for number in numbers]


def _nearest(bundle: Bundle, own: Rows, cosines: Scores) -> list[list[NearItem]]:
    """The nearest items of a history to each of some vectors.

    Args:
        bundle: Names the items.
        own: [H] rows of the history.
        cosines: [n, H] of the vectors with them, -inf where an item does not count; is changed.
    """
    every, item_ids = np.arange(len(cosines)), bundle.encoder.item_ids.ids(own + 1)
    names = [bundle.item_names[row] for row in own.tolist()]
    answers: list[list[NearItem]] = [[] for _ in cosines]
    for _ in range(min(NUM_NEAR, len(own))):
        best = cosines.argmax(axis=1)
        for near, place, cosine in zip(answers, best.tolist(), cosines[every, best].tolist(), strict=True):
            if cosine > -np.inf:
                near.append(NearItem(item_id=item_ids[place], item_name=names[place], cosine=cosine))
        cosines[every, best] = -np.inf
    return answers
