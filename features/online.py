"""How is the online store emptied? Before it is filled for a past that has changed, or for an earlier day.

Redis refuses values that are not younger than what it holds, and no store forgets a user who is gone.
"""

from __future__ import annotations

from features.store import Store


def empty_online_store(store: Store) -> None:
    """Removes all users' values; readers find nobody until the store is filled."""
    from features.feast_repo.definitions import VIEW_NAMES

    view = store.feast.get_feature_view(VIEW_NAMES["user"])
    provider = store.feast._get_provider()
    provider.teardown_infra(store.settings.project, [view], [])
    # The store's tables again, without a row.
    provider.update_infra(store.settings.project, [], [view], [], [], partial=True)
