"""What to do when a saga cannot go on by itself."""
