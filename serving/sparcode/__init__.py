"""SparCode at serving time: codes of users, posting lists of items, sums of scores."""
