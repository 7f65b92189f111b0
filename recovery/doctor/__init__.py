"""The check-up behind ``amends doctor``."""
