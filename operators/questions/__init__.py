"""Writing questions by program, proving them, and checking any question by rules and by trials."""
