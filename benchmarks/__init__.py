"""What a saga costs, measured beside something everybody knows, both sides in one run."""
