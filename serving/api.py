"""What may a request say, and what does an answer look like?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

MAX_USERS = 256
MAX_BODY_BYTES = 1 << 17

UserId = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class RecommendRequest(BaseModel):
    """Body of `POST /v1/recommend`; exactly one of `user_id` and `user_ids` is given."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    user_id: UserId | None = None
    """One user."""
    user_ids: list[UserId] | None = None
    """Several users."""
    k: int = 10
    """How many items each user gets."""
    retriever: str | None = None
    """What finds the items; the server's default if left out."""
    exclude_bought: bool = False
    """Whether items that the user bought before are kept out."""
    timings: bool = False
    """Whether the answer tells the time of each stage."""


class ItemResponse(BaseModel):
    """One candidate."""

    item_id: str
    item_name: str | None
    category: str | None
    score: float


class UserResponse(BaseModel):
    """The candidates of one user, best first."""

    user_id: str
    items: list[ItemResponse]
    unknown_user: bool
    fallback: str | None


class RecommendResponse(BaseModel):
    """One result for each user, in the order asked."""

    bundle_version: str
    retriever: str
    results: list[UserResponse]
    stage_microseconds: dict[str, float] | None = None


class FieldError(BaseModel):
    """What is wrong with one field; `body` is the request as a whole."""

    field: str
    message: str


class ErrorResponse(BaseModel):
    """Everything that is wrong with a request."""

    errors: list[FieldError]


class BadRequestError(ValueError):
    """A request that cannot be answered.

    Args:
        status: HTTP status, 4xx.
        errors: What is wrong.
    """

    def __init__(self, status: int, *errors: FieldError) -> None:
        """Takes the status and what is wrong."""
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.status = status
        self.errors = errors


@dataclass(frozen=True)
class Limits:
    """What this server takes beyond the types."""

    max_k: int
    """Largest k."""
    retrievers: Collection[str]
    """Names of the retrievers."""

    def parse(self, body: bytes) -> tuple[list[str], RecommendRequest]:
        """Reads the body of a request.

        Args:
            body: JSON.

        Returns:
            User ids and the request they stand in.

        Raises:
            BadRequestError: Names the field that is wrong, with status 400 (no JSON) or 422.
        """
        try:
            request = RecommendRequest.model_validate_json(body)
        except ValidationError as error:
            issues = error.errors(include_url=False, include_context=False, include_input=False)
            status = 400 if issues[0]["type"] == "json_invalid" else 422
            fields = [".".join(str(part) for part in issue["loc"]) or "body" for issue in issues]
            raise BadRequestError(
                status,
                *(FieldError(field=field, message=issue["msg"]) for field, issue in zip(fields, issues, strict=True)),
            ) from None
        if not 1 <= request.k <= self.max_k:
            raise _wrong("k", f"is {request.k}, expected 1 to {self.max_k}")
        if request.retriever is not None and request.retriever not in self.retrievers:
            raise _wrong("retriever", f"is {request.retriever!r}, expected one of: {', '.join(self.retrievers)}")
        return _user_ids(request), request

    def request_schema(self) -> dict[str, Any]:
        """JSON schema of a request, for the OpenAPI document."""
        schema = RecommendRequest.model_json_schema()
        schema["properties"]["k"] |= {"minimum": 1, "maximum": self.max_k}
        schema["properties"]["user_ids"]["anyOf"][0] |= {"minItems": 1, "maxItems": MAX_USERS}
        schema["properties"]["retriever"]["anyOf"][0] |= {"enum": list(self.retrievers)}
        return schema


def _user_ids(request: RecommendRequest) -> list[str]:
    if request.user_ids is None:
        if request.user_id is None:
            raise _wrong("user_id", "missing; give either user_id or user_ids")
        return [request.user_id]
    if request.user_id is not None:
        raise _wrong("user_ids", "given beside user_id; give one of the two")
    if not 1 <= len(request.user_ids) <= MAX_USERS:
        raise _wrong("user_ids", f"has {len(request.user_ids)} entries, expected 1 to {MAX_USERS}")
    return request.user_ids


def _wrong(field: str, message: str) -> BadRequestError:
    return BadRequestError(422, FieldError(field=field, message=message))
