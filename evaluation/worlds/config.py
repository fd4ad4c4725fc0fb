"""Configuration of a world: how many users and items, and how strong each of its mechanisms is.

Every strength can be turned to zero. What is zero is not in the world: no method can gain anything by it there.
"""

from __future__ import annotations

import datetime as dt

from pydantic import Field, model_validator

from artefacts.config import Section

MAX_TABLE_CELLS = 200_000_000
"""Most numbers of the table of tastes and items, 1.6 GB of them."""


class CatalogueConfig(Section):
    """Items, and how they come and go."""

    departments: int = Field(8, ge=1)
    """Groups of categories: the upper level of the tree."""
    categories: int = Field(80, ge=1)
    """Leaves of the tree; each item is in one."""
    family_size: int = Field(4, ge=1)
    """Variants of a product: they share category, words, tags and vector, and differ by `variant` alone."""
    popularity: float = Field(0.8, ge=0)
    """Exponent of Zipf's law within a category; 0 makes items equally popular."""
    price_spread: float = Field(1.0, ge=0)
    """How much prices differ, as a multiple of what is usual; 0 gives all items the same price."""
    turnover: float = Field(0.005, ge=0, le=0.2)
    """Share of the catalogue that is withdrawn, and as many new items listed, each day."""


class TasteConfig(Section):
    """What users like."""

    per_user: int = Field(3, ge=1, le=16)
    """Tastes of a user, each a category and a kind of item within it; 1 leaves nothing to several interests."""
    drift_days: float = Field(40.0, ge=0)
    """Days after which a taste gives way to another; 0 keeps tastes for ever."""
    kinds: int = Field(12, ge=1)
    """Kinds of tastes, and kinds of items, in every category."""
    strength: float = Field(1.5, ge=0)
    """Standard deviation, in nats, of how much more a taste likes one kind of item than another."""
    rank: int = Field(4, ge=0)
    """Rank of the table of liking, kinds by kinds; 0 gives it full rank: with more kinds than a vector has numbers, no
    product of vectors can express it."""
    variants: float = Field(0.0, ge=0)
    """Nats by which a taste prefers one variant of a family, the fine distinction that hard negatives teach."""
    segments: int = Field(6, ge=1)
    """Segments of users."""
    segment_strength: float = Field(1.0, ge=0)
    """Standard deviation, in nats, of how much more a segment likes one category than another; 0 leaves nothing to be
    known about users without a past."""


class VisitConfig(Section):
    """When users come, and what they do then."""

    per_user_day: float = Field(0.15, gt=0, le=1)
    """Mean visits of a user a day, at most one each."""
    length: float = Field(4.0, ge=1, le=15)
    """Mean items of a visit."""
    sequence: float = Field(0.3, ge=0, le=0.95)
    """Probability that an item of a visit follows from the one before it; 0 leaves nothing to the order."""
    successors: int = Field(5, ge=1)
    """Items that may follow an item."""
    repeat: float = Field(0.1, ge=0, le=0.95)
    """Probability that an item is one of the ten that the user has always taken; 0 leaves repeats to chance."""
    cold_users: float = Field(0.1, ge=0, le=1)
    """Share of the users that come for the first time on some day of the world."""
    cart: float = Field(0.0, ge=0, le=1)
    """Probability that a view is followed by a cart."""
    purchase: float = Field(0.0, ge=0, le=1)
    """Probability that a cart is followed by a purchase."""


class CalendarConfig(Section):
    """What changes with the day."""

    season: float = Field(0.3, ge=0)
    """Nats between the height of a category's season and its mean."""
    weekday: float = Field(0.2, ge=0)
    """Standard deviation, in nats, of a category's weekdays."""
    promotions: float = Field(0.02, ge=0, le=1)
    """Share of the items that are promoted in a week."""
    lift: float = Field(1.0, ge=0)
    """Nats that a promotion adds to an item's popularity."""


class ContentConfig(Section):
    """What is known of an item besides its category."""

    signal: float = Field(0.8, ge=0, le=1)
    """Share of its words, tags, brand and vector that come from category and kind; 0 makes all of them noise."""
    words: int = Field(8, ge=0)
    """Words of a description."""
    tags: int = Field(3, ge=0)
    """Tags of an item."""
    vector: int = Field(16, ge=0)
    """Numbers of its vector."""


class ExposureConfig(Section):
    """Lists that a known policy shows, and what is clicked."""

    share: float = Field(0.0, ge=0, le=1)
    """Share of the visits at which a list is shown."""
    length: int = Field(10, ge=1)
    """Items of a list."""
    uniform: float = Field(0.2, gt=0, le=1)
    """Part of the policy that draws evenly; the rest draws by popularity."""
    position_decay: float = Field(0.9, gt=0, le=1)
    """Probability that a user who has looked at a place looks at the next one."""


class WorldConfig(Section):
    """A shop whose truth is known."""

    name: str = Field("world", pattern=r"^[a-z0-9_]{1,64}$")
    """What runs on it are called."""
    seed: int = Field(1, ge=0)
    """Another seed gives another shop of the same kind."""
    start: dt.date = dt.date(2024, 1, 1)
    """The first day."""
    days: int = Field(90, ge=2)
    """Days of events."""
    users: int = Field(5_000, ge=1)
    """Users of all days together."""
    items: int = Field(4_000, ge=1)
    """Items of the catalogue on any one day."""
    catalogue: CatalogueConfig = CatalogueConfig()
    """Items, and how they come and go."""
    taste: TasteConfig = TasteConfig()
    """What users like."""
    visits: VisitConfig = VisitConfig()
    """When users come, and what they do then."""
    calendar: CalendarConfig = CalendarConfig()
    """What changes with the day."""
    content: ContentConfig = ContentConfig()
    """What is known of an item besides its category."""
    exposures: ExposureConfig = ExposureConfig()
    """Lists that are shown."""

    @property
    def num_items(self) -> int:
        """Items of all days together."""
        return self.items + round(self.items * self.catalogue.turnover * self.days)

    @property
    def num_styles(self) -> int:
        """Ways of liking the items of a category: kinds of taste, each with a preferred variant."""
        return self.taste.kinds * (self.catalogue.family_size if self.taste.variants > 0 else 1)

    @model_validator(mode="after")
    def _fits(self) -> WorldConfig:
        """Refuses worlds with empty categories, and those whose table does not fit into memory."""
        if self.catalogue.categories * self.catalogue.family_size > self.items:
            raise ValueError(
                f"items is {self.items:,}, fewer than one family of {self.catalogue.family_size} in each of "
                f"{self.catalogue.categories:,} categories; raise items, or lower catalogue.categories"
            )
        if self.catalogue.departments > self.catalogue.categories:
            raise ValueError(
                f"catalogue.departments is {self.catalogue.departments}, more than the {self.catalogue.categories} "
                "categories that they hold; lower it"
            )
        if (cells := self.num_styles * self.num_items) > MAX_TABLE_CELLS:
            raise ValueError(
                f"{self.num_styles} styles of {self.num_items:,} items make a table of {cells:,} numbers, more than "
                f"{MAX_TABLE_CELLS:,}; lower taste.kinds, or set taste.variants to 0"
            )
        return self
