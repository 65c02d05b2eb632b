"""Releases: publishing a run's files, the dataset card, reading everything back, and showing samples."""
