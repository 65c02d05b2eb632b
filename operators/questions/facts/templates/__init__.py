"""The templates of questions about facts, by category."""
