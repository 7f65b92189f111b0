"""Who runs the steps, and under which limits."""
