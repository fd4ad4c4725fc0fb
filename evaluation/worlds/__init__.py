"""Worlds: made-up shops of which the truth is known, to measure methods on."""
