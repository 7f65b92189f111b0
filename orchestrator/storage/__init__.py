"""The saga log in Postgres: the only place in the engine that speaks SQL."""
