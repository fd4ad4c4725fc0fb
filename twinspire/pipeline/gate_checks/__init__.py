"""What is looked at before a bundle is published: a file for each part of the night's work."""
