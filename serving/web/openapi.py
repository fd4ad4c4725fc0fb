"""The OpenAPI document: as strict as the checks of requests, for the bundles that answer now."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

from serving.context_values import context_columns, value_schema
from serving.recommender import Recommender
from serving.web.api import ID_SCHEMA, MAX_NAMES, MAX_USERS, Limits, RecommendBody, SimilarItemsBody
from serving.web.guard import PROTECTED
from serving.web.new_items import AddItemsBody
from serving.web.search import SearchBody

Schema = dict[str, Any]
_NULL: Schema = {"type": "null"}
_LIST: Schema = {"type": "array"}
_SECURITY = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}


class Document:
    """The document of an application; made again when other bundles answer.

    Args:
        app: The application, with all its routes.
        limits: What requests may ask for.
        needs_key: Whether what is below /v1/ needs a key.
    """

    def __init__(self, app: FastAPI, limits: Limits, *, needs_key: bool) -> None:
        """Makes the part that no bundle changes."""
        self._limits = limits
        self._plain = FastAPI.openapi(app)
        self._made: tuple[list[tuple[str, int]], Schema] | None = None
        if needs_key:
            self._plain["components"]["securitySchemes"] = _SECURITY
            for path, operations in self._plain["paths"].items():
                if path.startswith(PROTECTED):
                    for operation in operations.values():
                        operation["security"] = [{name: []} for name in _SECURITY]

    def of(self, served: Sequence[Recommender]) -> Schema:
        """The document while some bundles answer.

        Args:
            served: Their recommenders: what all of them take is allowed.
        """
        # Items that were added may be of categories of their own.
        bundles = [recommender.bundle for recommender in served]
        versions = [(bundle.version, len(bundle.categories)) for bundle in bundles]
        if self._made is None or self._made[0] != versions:
            document = copy.deepcopy(self._plain)
            categories = _categories(served)
            for path, schema in (
                ("/v1/recommend", recommend_schema(self._limits, served, categories)),
                ("/v1/similar-items", similar_schema(self._limits, categories)),
                ("/v1/search", search_schema(self._limits, categories)),
                ("/v1/items", AddItemsBody.model_json_schema()),
            ):
                content = {"application/json": {"schema": schema}}
                document["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
            self._made = versions, document
        return self._made[1]


def recommend_schema(limits: Limits, served: Sequence[Recommender], categories: Sequence[str]) -> Schema:
    """JSON schema of a request for recommendations.

    Args:
        limits: What it may ask for.
        served: What answers.
        categories: Those that may be allowed.
    """
    schema = RecommendBody.model_json_schema()
    fields = schema["properties"]
    fields["k"] |= {"minimum": 1, "maximum": limits.largest_k(1, explain=False), "default": limits.default_k}
    fields["user_ids"]["anyOf"][0] |= {"minItems": 1, "maxItems": MAX_USERS}
    fields["retriever"]["anyOf"][0] |= {"enum": list(limits.retrievers)}
    fields["arm"]["anyOf"][0] |= {"enum": list(limits.arms)}
    fields["allow_categories"]["anyOf"][0] = _some_of(categories)
    if not all(recommender.has_weights for recommender in served):
        fields["weight_exponent"] |= {"anyOf": [_NULL]}
    encoder = served[0].bundle.encoder
    fields["context"] = {
        "type": "object",
        "description": fields["context"]["description"],
        "properties": {
            name: {"anyOf": [value_schema(encoder, name), _NULL]} for name in context_columns(encoder.schema)
        },
        "additionalProperties": False,
    }
    schema["oneOf"] = [
        {"required": ["user_id"], "properties": {"user_id": ID_SCHEMA, "user_ids": _NULL}},
        {"required": ["user_ids"], "properties": {"user_id": _NULL, "user_ids": _LIST}},
        {
            "properties": {"user_id": _NULL, "user_ids": _NULL},
            "anyOf": [
                {"required": ["recent_items"], "properties": {"recent_items": {"minItems": 1}}},
                {"required": ["context"], "properties": {"context": {"minProperties": 1}}},
            ],
        },
    ]
    schema["allOf"] = [_if_several(2, {"recent_items": {"maxItems": 0}}), *_largest_ks(limits)]
    return schema


def similar_schema(limits: Limits, categories: Sequence[str]) -> Schema:
    """Likewise of a request for similar items."""
    schema = SimilarItemsBody.model_json_schema()
    fields = schema["properties"]
    fields["k"] |= {"minimum": 1, "maximum": limits.max_k, "default": limits.default_k}
    fields["allow_categories"]["anyOf"][0] = _some_of(categories)
    return schema


def search_schema(limits: Limits, categories: Sequence[str]) -> Schema:
    """Likewise of a search."""
    schema = SearchBody.model_json_schema()
    fields, largest = schema["properties"], limits.largest_k(1, explain=False)
    fields["k"] |= {"minimum": 1, "maximum": largest, "default": limits.default_k}
    fields["allow_categories"]["anyOf"][0] = _some_of(categories)
    schema["allOf"] = [_if_several(1, {"k": {"maximum": limits.largest_k(1, explain=True)}}, explain=True)]
    return schema


def _some_of(names: Sequence[str]) -> Schema:
    if not names:
        return {**_LIST, "maxItems": 0}
    return {**_LIST, "items": {"type": "string", "enum": list(names)}, "maxItems": MAX_NAMES}


def _categories(served: Sequence[Recommender]) -> list[str]:
    first, *others = [recommender.eligibility.category_names for recommender in served]
    return [name for name in first if all(name in names for names in others)]


def _largest_ks(limits: Limits) -> list[Schema]:
    """What k may be for how many users, where it is less than otherwise."""
    rules, before = [], {}
    for explain in (False, True):
        before[explain] = limits.largest_k(1, explain=False)
        least = 1
        while least <= MAX_USERS:
            largest = limits.largest_k(least, explain=explain)
            if largest < before[explain]:
                rules.append(_if_several(least, {"k": {"maximum": largest}}, explain=explain))
                before[explain] = largest
            least = least + 1 if least < 2 else 2 * least - 1
    return rules


def _if_several(at_least: int, then: Schema, *, explain: bool = False) -> Schema:
    """What fields must be where there are so many users."""
    condition: Schema = {"required": [], "properties": {}}
    if at_least > 1:
        condition["required"].append("user_ids")
        condition["properties"]["user_ids"] = {**_LIST, "minItems": at_least}
    if explain:
        condition["required"].append("explain")
        condition["properties"]["explain"] = {"const": True}
    return {"if": condition, "then": {"properties": then}}
