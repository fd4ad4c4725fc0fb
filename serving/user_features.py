"""User features of a bundle: read from the version that it names, and missed where the online store has lost them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.online_versions import open_filled
from features.store import Store
from serving.bundles.bundle import Bundle
from serving.context import lost, probes


class FeaturesLostError(OSError):
    """The online store has no features of users that it was filled with; the message names the version."""


def features_of(bundle: Bundle, folder: Path) -> Store:
    """The online features that a bundle names.

    Args:
        bundle: Which.
        folder: The run's `features/` folder.

    Raises:
        FileNotFoundError: They are not there.
        ValueError: They are of another schema.
    """
    version = bundle.manifest.facts.features_version
    store = open_filled(folder, version)
    if store.settings.schema != bundle.manifest.dataset_schema:
        raise ValueError(
            f"{folder}: the online features {version} are of another dataset schema than {bundle.version}, which names "
            "them; copy both from one run folder, or publish another bundle"
        )
    return store


class BundleFeatures:
    """Reads users from the version of the online features that a bundle names.

    Args:
        bundle: Whose users are read.
        read: User ids -> rows of the user view, nulls where nothing is known.
    """

    def __init__(self, bundle: Bundle, read: Callable[[list[str]], pa.Table]) -> None:
        """Reads nothing yet."""
        self._bundle, self._read = bundle, read
        self._probes = probes(bundle.purchases, bundle.encoder.user_ids)

    def __call__(self, user_ids: list[str]) -> pa.Table:
        """Rows in the order asked, nulls where nothing is known.

        Raises:
            FeaturesLostError: The store has no features of any user with a past.
            Exception: Whatever the store's client raises.
        """
        version = self._bundle.manifest.facts.features_version
        to_do = f"fill them with `twinspire features --force --as-of {version[:10]}`, or publish another bundle"
        try:
            found = self._read(user_ids)
            if not self._lost(user_ids, found).any():
                return found
            has_none = self._lost(self._probes, self._read(self._probes)).all()
        except FileNotFoundError as error:
            raise FeaturesLostError(f"online features {version} are gone ({error}); {to_do}") from error
        if has_none:
            raise FeaturesLostError(
                f"online features {version}: the store has none of {len(self._probes)} users who have some, as one "
                f"that came back empty; {to_do}"
            )
        return found

    def _lost(self, user_ids: list[str], found: pa.Table) -> npt.NDArray[np.bool_]:
        rows = self._bundle.encoder.user_ids.rows(user_ids)
        return lost(found, self._bundle.purchases.of(rows))
