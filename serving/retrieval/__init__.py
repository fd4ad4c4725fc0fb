"""Retrieval: how the candidates of a user are found."""
