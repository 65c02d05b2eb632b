"""Programmatic questions and their verification, and checks of all questions by rules and by trials."""
