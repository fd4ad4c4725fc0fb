"""The sparse channel: an inverted index over the terms of items, searched by the terms of a history or of a text."""
