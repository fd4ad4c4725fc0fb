"""What is known of the items of a world besides their category: words, tags, brand and vector.

Each comes from the item's category and kind with the probability that is configured as signal, and is noise otherwise.
N items.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from evaluation.worlds.config import WorldConfig
from evaluation.worlds.draws import Floats, Ints, integers, normals, uniforms
from evaluation.worlds.items import Items

_WORDS_PER_TOPIC, _COMMON_WORDS, _TAGS_PER_TOPIC, _BRANDS_PER_KIND = 12, 2000, 4, 4
_SYLLABLES = ("ba", "de", "fi", "go", "lu", "ma", "ne", "pi", "ro", "su", "ta", "ve", "wi", "zo", "ka", "mu")


def item_table(world: WorldConfig, items: Items) -> pa.Table:
    """The items as a user would bring them, in the order of their ids.

    Returns:
        item_id, item_name, category, department, brand, family, variant, description (strings), tags (list of strings),
        vector (list of float32), price (double), listed_on (date), [N].
    """
    family, day = items.family, np.timedelta64(1, "D")
    shop = world.catalogue
    department = items.category * shop.departments // shop.categories
    words = _words(world, items)
    names = pa.array(
        [f"{' '.join(own[:2])} {variant}".strip() for own, variant in zip(words, items.variant, strict=True)]
    )
    columns = {
        "item_id": item_ids(items.number),
        "item_name": names,
        "category": _numbered("category ", items.category),
        "department": _numbered("department ", department),
        "brand": _numbered("brand ", _topic_or_noise(world, "brand", items.kind, family, 0, _BRANDS_PER_KIND)),
        "family": _numbered("family ", family),
        "variant": _numbered("variant ", items.variant),
        "description": pa.array([" ".join(own) for own in words]),
        "tags": pa.array(_tags(world, items), pa.list_(pa.string())),
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array(_vectors(world, items).astype(np.float32).ravel()), world.content.vector
        )
        if world.content.vector
        else None,
        "price": pa.array(items.price),
        "listed_on": pa.array(np.datetime64(world.start) + items.listed * day),
    }
    table = pa.table({name: column for name, column in columns.items() if column is not None})
    return table.take(pa.array(np.argsort(items.number)))


def item_ids(numbers: Ints) -> pa.Array:
    """[n] strings: ids of items, from their numbers."""
    return _padded("i", numbers, 7)


def user_ids(numbers: Ints) -> pa.Array:
    """[n] strings: ids of users, from their numbers."""
    return _padded("u", numbers, 8)


def number_of(some_id: str) -> int:
    """The number that an id was made of; -1 for an id of something else."""
    return int(some_id[1:]) if some_id[:1] in ("u", "i") and some_id[1:].isdecimal() else -1


def _padded(head: str, numbers: Ints, width: int) -> pa.Array:
    digits = pa.compute.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")
    return pa.compute.binary_join_element_wise(head, digits, "")


def _numbered(head: str, numbers: Ints) -> pa.Array:
    return pa.compute.binary_join_element_wise(head, pa.array(numbers).cast(pa.string()), "")


def _topic_or_noise(world: WorldConfig, purpose: str, topic: Ints, family: Ints, place: int, per_topic: int) -> Ints:
    """[N]: a number of the item's own topic, or with what is left of the signal of any topic."""
    is_own = uniforms(world.seed, f"{purpose}: own", family, place) < world.content.signal
    any_topic = integers(world.seed, f"{purpose}: any", int(topic.max()) + 1, family, place)
    which = integers(world.seed, f"{purpose}: which", per_topic, family, place)
    return np.where(is_own, topic, any_topic) * per_topic + which


def _words(world: WorldConfig, items: Items) -> list[list[str]]:
    """[N] lists of words: of the category, of the kind, and common ones."""
    seed, columns = world.seed, []
    for place in range(world.content.words):
        topic = items.category if place % 2 == 0 else items.kind
        own = topic * _WORDS_PER_TOPIC + integers(seed, "word", _WORDS_PER_TOPIC, items.family, place)
        own = own * 2 + place % 2
        common = np.floor(_COMMON_WORDS ** uniforms(seed, "common word", items.family, place)).astype(np.int64)
        is_own = uniforms(seed, "word: own", items.family, place) < world.content.signal
        # Three vocabularies that have no word in common.
        columns.append(np.where(is_own, 3 * own, 3 * common + 1))
    numbers = np.stack(columns, axis=1) if columns else np.empty((len(items.family), 0), dtype=np.int64)
    distinct, at = np.unique(numbers, return_inverse=True)
    spelled = np.array([_spelled(int(number)) for number in distinct], dtype=object)
    rows: list[list[str]] = spelled[at.reshape(numbers.shape)].tolist() if len(distinct) else [[] for _ in numbers]
    return rows


def _spelled(number: int) -> str:
    """A word that stands for a number and for no other one."""
    word = ""
    while number or len(word) < 4:
        number, syllable = divmod(number, len(_SYLLABLES))
        word += _SYLLABLES[syllable]
    return word


def _tags(world: WorldConfig, items: Items) -> list[list[str]]:
    columns = []
    for place in range(world.content.tags):
        topic, head = (items.category, "c") if place % 2 == 0 else (items.kind, "k")
        tag = _topic_or_noise(world, "tag", topic, items.family, place, _TAGS_PER_TOPIC)
        columns.append([f"{head}{number}" for number in tag])
    return [sorted(set(own)) for own in zip(*columns, strict=True)] if columns else [[] for _ in items.family]


def _vectors(world: WorldConfig, items: Items) -> Floats:
    """[N, content.vector]: of length 1 in the mean, the same within a family."""
    width, seed = world.content.vector, world.seed
    places = np.arange(width)

    def of(purpose: str, rows: Ints) -> Floats:
        return normals(seed, purpose, rows[:, None], places[None, :])

    own = (of("vector of category", items.category) + of("vector of kind", items.kind)) / np.sqrt(2)
    signal = world.content.signal
    mixed = signal * own + np.sqrt(1 - signal**2) * of("vector noise", items.family)
    scaled: Floats = mixed / np.sqrt(max(width, 1))
    return scaled
