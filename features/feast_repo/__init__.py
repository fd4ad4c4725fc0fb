"""Feast definitions, alone in their folder: `feast apply` executes every file of it."""
