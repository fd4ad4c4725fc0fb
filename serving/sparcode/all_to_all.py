"""Exhaustive scoring with SparCode's model: all codes against all items, the oracle of its tables.

    score(user, item) = sum_k relu( S(token_k, item) + bias )

Shape letters: B users, K_u tokens of a user, N items of the catalogue, K_c tokens of an item, D width of a token.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from serving.retrieval.exact import excluded_by_block
from serving.retrieval.running_top_k import RunningTopK
from serving.sparcode.codebook import Codebook
from serving.sparcode.interactions import Interaction

Floats = npt.NDArray[np.float32]
USER_BLOCK = 256
ITEM_BLOCK = 4096


def search(
    user_tokens: Floats,
    item_tokens: Floats,
    *,
    interaction: Interaction,
    bias: float,
    codebook: Codebook | None,
    k: int,
    exclude: sp.csr_array | None = None,
    offered: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[np.int32], Floats]:
    """The k best items of each user by all scores.

    Args:
        user_tokens: [B, K_u D] float32.
        item_tokens: [N, K_c D] float32.
        interaction: S.
        bias: Added before scores are cut at 0.
        codebook: Tokens become its codes first; None scores the tokens as they are.
        k: Items wanted, at least 1.
        exclude: [B, N] CSR; every stored entry is an item that this user must not get. None excludes nothing.
        offered: [N] the items that any user may get; None offers all.

    Returns:
        rows [B, k] int32 and scores [B, k] float32, best first, equal scores by the lower row; -1 and -inf where
        no item with a score above 0 is left.

    Raises:
        ValueError: Shapes do not fit, or `k` < 1.
    """
    width = interaction.width
    if user_tokens.shape[1] % width or item_tokens.shape[1] != interaction.num_item_tokens * width:
        raise ValueError(
            f"users have {user_tokens.shape[1]} numbers and items {item_tokens.shape[1]}, expected a multiple of "
            f"{width} and {interaction.num_item_tokens * width}, as the interaction was fitted; take all from one fit"
        )
    blocks = range(0, max(len(user_tokens), 1), USER_BLOCK)
    parts = [
        _search_block(
            user_tokens[begin : begin + USER_BLOCK],
            item_tokens,
            interaction,
            bias,
            codebook,
            k,
            None if exclude is None else exclude[begin : begin + USER_BLOCK],
            offered,
        )
        for begin in blocks
    ]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])


def _search_block(
    user_tokens: Floats,
    item_tokens: Floats,
    interaction: Interaction,
    bias: float,
    codebook: Codebook | None,
    k: int,
    exclude: sp.csr_array | None,
    offered: npt.NDArray[np.bool_] | None,
) -> tuple[npt.NDArray[np.int32], Floats]:
    tokens = user_tokens.reshape(-1, interaction.width)
    row_of_token: npt.NDArray[np.intp] = np.arange(len(tokens))
    if codebook is not None:
        # What several users share is scored once.
        keys, row_of_token = np.unique(codebook.keys(tokens), return_inverse=True)
        tokens = codebook.decode(keys)
    num_tokens = user_tokens.shape[1] // interaction.width
    running = RunningTopK(len(user_tokens), k)
    edges = np.arange(0, len(item_tokens) + ITEM_BLOCK, ITEM_BLOCK)
    rows, columns, bounds = excluded_by_block(exclude, edges)
    for block, begin in enumerate(edges[:-1]):
        items = item_tokens[begin : begin + ITEM_BLOCK].reshape(-1, interaction.num_item_tokens, interaction.width)
        found = interaction.scores(tokens, interaction.prepare(items))
        found += np.float32(bias)
        np.maximum(found, 0, out=found)
        scores = found[row_of_token[::num_tokens]]
        for token in range(1, num_tokens):
            scores += found[row_of_token[token::num_tokens]]
        scores[scores <= 0] = -np.inf
        if offered is not None:
            scores[:, ~offered[begin : begin + ITEM_BLOCK]] = -np.inf
        here = slice(bounds[block], bounds[block + 1])
        scores[rows[here], columns[here] - begin] = -np.inf
        running.add(scores, int(begin))
    return running.result()
