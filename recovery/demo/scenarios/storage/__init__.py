"""What the scenarios ask the database for, past the engine's own questions."""
