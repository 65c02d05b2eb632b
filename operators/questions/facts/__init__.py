"""Questions derived by program from facts about a video."""
