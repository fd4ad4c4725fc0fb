"""Exposure log: which lists were shown to whom, in Parquet, day by day."""
