"""Releases: publishing a run's files, the dataset card, verification by reading back, and showing samples."""
