"""The seven scenarios of a checkout, played on a real deployment, and the table of it."""
