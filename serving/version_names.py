"""What is a bundle called? Its day, and the beginning of its digest: 2017-12-01-0f3c9a71."""

from __future__ import annotations

import datetime as dt

VERSION_PATTERN = r"^\d{4}-\d{2}-\d{2}-[0-9a-f]{8}$"


def day_of(version: str) -> dt.date:
    """The day that a bundle's name begins with: everything before it is known to the bundle."""
    return dt.date.fromisoformat(version[:10])
