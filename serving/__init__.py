"""What does this user get now: bundles, indexes, retrievers, the server."""
