"""The content-addressed store, and the folder of a run in it."""
