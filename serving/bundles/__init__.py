"""Bundles: everything a server needs of one day, verified, published and rolled back as one."""
