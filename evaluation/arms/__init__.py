"""Arms of a comparison: bundles, files, baselines, servers."""
