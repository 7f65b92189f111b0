"""Alerts: what a person must know leaves the system, until somebody answers."""
