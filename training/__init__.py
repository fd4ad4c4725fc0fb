"""How towers are fitted, day after day."""
