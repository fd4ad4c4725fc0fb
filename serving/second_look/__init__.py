"""The second look: a small net that ranks the candidates of all lists again."""
