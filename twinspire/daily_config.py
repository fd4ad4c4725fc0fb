"""How does a night's run go on from the one before?"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from twinspire.section import Section


class DailyConfig(Section):
    """The nightly run."""

    full_every_days: int | None = Field(None, ge=1)
    """Fit everything anew when the last full fit is this old; null goes on from yesterday until asked otherwise."""
    epochs: int = Field(1, ge=1)
    """Passes over the new days when a fit goes on."""
    replay_days: int = Field(1, ge=0)
    """Days before the new ones that are fitted once more, with the users who were held out of them."""
    holdout_share: float = Field(0.1, ge=0, lt=1)
    """Share of the users whose new examples wait a day, so that the fit can be judged beside the one before."""
    keep_exposure_days: int | None = Field(None, ge=1)
    """Days before the night's own of which the lists that servers logged are kept; null keeps them all."""

    def of_fit(self) -> dict[str, Any]:
        """What a fit reads, as JSON has it: all but what is kept."""
        return self.model_dump(mode="json", exclude={"keep_exposure_days"})
