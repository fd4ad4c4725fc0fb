"""Where negatives come from, which of them a row must not have, and how likely each is."""
