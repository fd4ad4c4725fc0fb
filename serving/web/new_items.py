"""The route that adds items between two nights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from features.sources.raw import SourceError
from serving.added_items import add_items, from_records
from serving.live import Live
from serving.web.api import Asked, BadRequestError, Id, bad, read_body_as

MOST_ITEMS = 1_000


class AddItemsBody(Asked):
    """Body of `POST /v1/items`."""

    items: tuple[dict[str, Any], ...] = Field(min_length=1, max_length=MOST_ITEMS)
    """Items: `item_id`, `item_name` and the declared columns; what is left out is missing."""


class _ItemId(Asked):
    item_id: Id


class SetAsideResponse(BaseModel):
    """A row that cannot be used, counted from 1, and why."""

    row: int
    reason: str


class AddItemsResponse(BaseModel):
    """What became of the items."""

    added: list[str]
    replaced: list[str]
    in_catalogue: list[str]
    set_aside: list[SetAsideResponse]


def adder(live: Live, path: Path) -> Callable[[bytes], dict[str, Any]]:
    """A function that adds the items of a body to the file, and says what became of them.

    Args:
        live: The bundles that answer, whose published one knows the columns.
        path: The file of added items.
    """

    def add(body: bytes) -> dict[str, Any]:
        records = [dict(record) for record in read_body_as(AddItemsBody, body).items]
        for place, record in enumerate(records):
            try:
                record["item_id"] = _ItemId.model_validate({"item_id": record.get("item_id")}).item_id
            except ValueError:
                raise bad(422, f"items.{place}.item_id", "is missing or no id; expected text or a number") from None
        encoder = live.current.bundle.encoder
        try:
            outcome = add_items(path, from_records(records, encoder.schema), encoder.schema, encoder.item_ids)
        except (SourceError, ValueError) as error:
            if isinstance(error, BadRequestError):
                raise
            raise bad(422, "items", str(error)) from None
        return {
            "added": outcome.added,
            "replaced": outcome.replaced,
            "in_catalogue": outcome.in_catalogue,
            "set_aside": [{"row": row, "reason": reason} for row, reason in outcome.set_aside],
        }

    return add
