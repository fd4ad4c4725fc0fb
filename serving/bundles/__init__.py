"""Bundles: everything that a server needs of one day, verified, published and rolled back together."""
