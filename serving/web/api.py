"""The bodies of HTTP requests and answers, and their validation."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)

from features.ids import MAX_LENGTH, normal_id
from serving.answers import ANONYMOUS, EXPLAIN_COST, MOST_VALUES, RecommendRequest, did_you_mean

MAX_USERS = 256
DEFAULT_K = 10
MAX_BODY_BYTES = 1 << 17
MAX_NAMES = 1000
MAX_RECENT = 200
MAX_EXPONENT = 4.0
LARGEST_ID = (1 << 53) - 1
"""Beyond it, ids that are numbers are sent as text: as a number, JSON may have lost their last digits (RFC 8259)."""


def as_id(value: object) -> object:
    """An id of a request as the tables have it; text that is no id stays, and is not known.

    Raises:
        ValueError: It is a number that is no id.
    """
    if isinstance(value, str) and len(value) > MAX_LENGTH:
        return value
    if isinstance(value, int) and abs(value) > LARGEST_ID:
        raise ValueError(f"is a number beyond {LARGEST_ID}, which may have lost digits; send it as text")
    try:
        return normal_id(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else value
    except ValueError:
        if isinstance(value, str):
            return value
        raise


def _as_whole(value: object) -> object:
    """2.0 is 2, as JSON schema has it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_context(value: object) -> object:
    single = value if isinstance(value, list) and len(value) <= MOST_VALUES else [value]
    if all(math.isfinite(one) if isinstance(one, float) else isinstance(one, int | str | None) for one in single):
        return value
    raise ValueError(f"expected text, a finite number, true, false, null or a list of at most {MOST_VALUES:,} of them")


Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_LENGTH)]
ID_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": MAX_LENGTH},
        {"type": "integer", "minimum": -LARGEST_ID, "maximum": LARGEST_ID},
    ]
}
Id = Annotated[Name, BeforeValidator(as_id), WithJsonSchema(ID_SCHEMA)]
Whole = Annotated[int, BeforeValidator(_as_whole)]
ContextValue = Annotated[Any, AfterValidator(_as_context)]
Names = Annotated[tuple[Name, ...], Field(max_length=MAX_NAMES)]
Ids = Annotated[tuple[Id, ...], Field(max_length=MAX_NAMES)]


class Asked(BaseModel):
    """A frozen body; unknown fields are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


Body = TypeVar("Body", bound=Asked)


class RecommendBody(Asked):
    """Body of `POST /v1/recommend`.

    Exactly one of `user_id` and `user_ids` is given, or none of them and `recent_items` or `context`.
    """

    user_id: Id | None = None
    """One user."""
    user_ids: tuple[Id, ...] | None = None
    """Several users."""
    k: Whole = DEFAULT_K
    """Items for each user; fewer only where there are not more."""
    retriever: str | None = None
    """What finds the items; the arm's, or the server's default, if left out."""
    arm: str | None = None
    """Which arm answers; the one that the user is assigned to if left out. A named arm is no exposure of it."""
    exclude_bought: bool | None = None
    """Whether items that the user bought before, and `recent_items`, are kept out; the bundle's choice if left out."""
    allow_categories: Names | None = None
    """Categories of which alone items come."""
    deny_categories: Names = ()
    """Categories of which no item comes."""
    exclude_items: Ids = ()
    """Ids of items that do not come."""
    weight_exponent: Annotated[FiniteFloat, Field(ge=0, le=MAX_EXPONENT)] | None = None
    """Power of the items' business values, where the bundle has them: 0 ranks without them."""
    context: dict[Name, ContextValue] = Field(default_factory=dict)
    """User column -> value of this moment, in place of the stored one; event column -> value, missing else."""
    recent_items: Annotated[tuple[Id, ...], Field(max_length=MAX_RECENT)] = ()
    """Ids of items that the one user, or nobody that is known, has met since the features were computed, latest
    first."""
    explain: bool = False
    """Whether each item comes with the retrievers that found it, and similar items of the history."""
    timings: bool = False
    """Whether the answer has the time of each stage."""

    def to_request(self, user_ids: tuple[str, ...]) -> RecommendRequest:
        """What the recommender is asked."""
        return RecommendRequest(
            user_ids,
            self.k,
            retriever=self.retriever,
            exclude_known=self.exclude_bought,
            allow_categories=self.allow_categories,
            deny_categories=self.deny_categories,
            exclude_items=self.exclude_items,
            weight_exponent=self.weight_exponent,
            context=self.context,
            recent_items=self.recent_items,
            explain=self.explain,
            arm=self.arm,
        )


class SimilarItemsBody(Asked):
    """Body of `POST /v1/similar-items`."""

    item_id: Id
    """The item."""
    k: Whole = DEFAULT_K
    """How many others come."""
    allow_categories: Names | None = None
    """Categories of which alone items come."""
    deny_categories: Names = ()
    """Categories of which no item comes."""


class FoundResponse(BaseModel):
    """Where one retriever had an item."""

    rank: int
    score: float


class NearItemResponse(BaseModel):
    """An item of the user's past."""

    item_id: str
    item_name: str | None
    cosine: float


class InterestResponse(BaseModel):
    """Which of the user's several vectors finds an item, counted from 1, and the items of the past nearest to it."""

    number: int
    near: list[NearItemResponse]


class ExplanationResponse(BaseModel):
    """Why an item is in a list."""

    found_by: dict[str, FoundResponse]
    near: list[NearItemResponse]
    interest: InterestResponse | None = None
    matches: list[str] | None = None
    counted: dict[str, float] | None = None


class ItemResponse(BaseModel):
    """One candidate."""

    item_id: str
    item_name: str | None
    category: str | None
    score: float
    explanation: ExplanationResponse | None = None


class UserResponse(BaseModel):
    """The candidates of one user, best first."""

    user_id: str | None
    arm: str
    bundle_version: str
    retriever: str
    items: list[ItemResponse]
    unknown_user: bool
    fallback: str | None
    reasons: list[str]


class RecommendResponse(BaseModel):
    """One result for each user, in the order asked."""

    results: list[UserResponse]
    unknown_recent_items: list[str] | None = None
    stage_microseconds: dict[str, float] | None = None


class SimilarItemsResponse(BaseModel):
    """Items like one."""

    bundle_version: str
    item_id: str
    items: list[ItemResponse]


class EmbeddingResponse(BaseModel):
    """A user's vector, as the index is asked with it; of several interests, all of them side by side."""

    bundle_version: str
    user_id: str
    embedding: list[float]


class BoughtItemResponse(BaseModel):
    """An item of a user's past."""

    item_id: str
    item_name: str | None
    category: str | None
    num_events: int
    last_seconds: int


class HistoryResponse(BaseModel):
    """What a user has bought, the latest first."""

    bundle_version: str
    user_id: str
    items: list[BoughtItemResponse]


class ArmResponse(BaseModel):
    """One way of answering."""

    name: str
    share: float
    bundle: str
    retriever: str
    weight_exponent: float | None


class ArmsResponse(BaseModel):
    """All ways of answering."""

    arms: list[ArmResponse]


class RefusalResponse(BaseModel):
    """A published bundle that does not answer."""

    bundle_version: str
    reason: str
    moment: str


class ReadyResponse(BaseModel):
    """Whether requests are answered, and from which bundle."""

    ready: bool
    bundle_version: str
    refused: RefusalResponse | None
    features: str
    features_version: str
    features_age_seconds: float
    deny_list: str


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
        headers: Of the answer.
    """

    def __init__(self, status: int, *errors: FieldError, headers: Mapping[str, str] | None = None) -> None:
        """Takes the status and what is wrong."""
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.status = status
        self.errors = errors
        self.headers = headers


def bad(status: int, field: str, message: str) -> BadRequestError:
    """One thing that is wrong."""
    return BadRequestError(status, FieldError(field=field, message=message))


@dataclass(frozen=True)
class Limits:
    """What this server takes beyond the types."""

    max_k: int
    """Largest k."""
    retrievers: Collection[str]
    """Names of the retrievers."""
    arms: Collection[str]
    """Names of the arms."""
    max_items: int
    """Most items of all lists of a request: users, rounded up to a power of two, times k. An explained one counts
    `EXPLAIN_COST` times."""

    @property
    def default_k(self) -> int:
        """K where a request gives none."""
        return min(DEFAULT_K, self.max_k)

    def largest_k(self, num_users: int, *, explain: bool) -> int:
        """Largest k for so many users."""
        rounded = 1 << (num_users - 1).bit_length()
        return min(self.max_k, self.max_items // (EXPLAIN_COST if explain else 1) // rounded)

    def parse(self, body: bytes) -> tuple[RecommendBody, tuple[str, ...]]:
        """Reads the body of a request for recommendations.

        Args:
            body: JSON.

        Returns:
            The request and its user ids.

        Raises:
            BadRequestError: Names the field that is wrong, with status 400 (no JSON) or 422.
        """
        request = self.with_k(read_body_as(RecommendBody, body))
        user_ids = _user_ids(request)
        largest = self.largest_k(len(user_ids), explain=request.explain)
        if not 1 <= request.k <= largest:
            raise bad(422, "k", self._too_many(request, len(user_ids), largest))
        for name_of, name, known in (
            ("retriever", request.retriever, self.retrievers),
            ("arm", request.arm, self.arms),
        ):
            if name is not None and name not in known:
                meant = did_you_mean(name, known)
                raise bad(422, name_of, f"is {name!r}, expected one of: {', '.join(known)}{meant}")
        return request, user_ids

    def parse_similar(self, body: bytes) -> SimilarItemsBody:
        """Reads the body of a request for similar items; raises as `parse` does."""
        request = self.with_k(read_body_as(SimilarItemsBody, body))
        if not 1 <= request.k <= self.max_k:
            raise bad(422, "k", f"is {request.k}, expected 1 to {self.max_k}")
        return request

    def with_k(self, request: Body) -> Body:
        """A body with its k, or the default one."""
        return request if "k" in request.model_fields_set else request.model_copy(update={"k": self.default_k})

    def _too_many(self, request: RecommendBody, num_users: int, largest: int) -> str:
        found = f"is {request.k}, expected 1 to {largest}"
        if largest == self.max_k:
            return found
        explained = f", of which an explained one counts {EXPLAIN_COST} times" if request.explain else ""
        return (
            f"{found} for {num_users} users: a request gets at most {self.max_items:,} items{explained}; ask for fewer "
            "users at a time"
        )


def read_body_as(body_class: type[Body], body: bytes) -> Body:
    """Reads a body.

    Raises:
        BadRequestError: Names the field that is wrong, with status 400 (no JSON) or 422.
    """
    try:
        return body_class.model_validate_json(body)
    except ValidationError as error:
        issues = error.errors(include_url=False, include_context=False, include_input=False)
        status = 400 if issues[0]["type"] == "json_invalid" else 422
        raise BadRequestError(status, *(_field_error(body_class, issue) for issue in issues)) from None


def _field_error(body_class: type[Asked], issue: Any) -> FieldError:
    place, message = issue["loc"], issue["msg"].removeprefix("Value error, ")
    if issue["type"] == "extra_forbidden":
        fields = body_class.model_fields
        message = f"is not permitted; expected some of: {', '.join(fields)}{did_you_mean(str(place[-1]), fields)}"
    return FieldError(field=".".join(str(part) for part in place) or "body", message=message)


def _user_ids(request: RecommendBody) -> tuple[str, ...]:
    if request.user_ids is None:
        if request.user_id is None:
            if request.recent_items or request.context:
                return (ANONYMOUS,)
            raise bad(
                422, "user_id", "missing; give either user_id or user_ids, or recent_items of somebody who is not known"
            )
        return (request.user_id,)
    if request.user_id is not None:
        raise bad(422, "user_ids", "given together with user_id; give one of the two")
    if not 1 <= len(request.user_ids) <= MAX_USERS:
        raise bad(422, "user_ids", f"has {len(request.user_ids)} entries, expected 1 to {MAX_USERS}")
    return request.user_ids


_PATH = re.compile(r"(?<![\w.:/])/(?:[^/\n:'\"]+/)*([^\s/:'\"),;]+)")


def without_paths(text: str) -> str:
    """A message with the last part of each absolute path only: the log has the rest."""
    return _PATH.sub(r"\1", text)
