"""The steps of the main job, one file each, in the order in which they run."""
