"""Serving: bundles, retrieval, exposure logs and the HTTP server."""
