"""Sagas in a simulated world: the engine's pure core against what truly happened outside.

The world holds its own book. Requests are lost, answers are lost, requests arrive late, lookups
lag, workers die or stand still and come back. The checkout's own steps and the engine's own call
run against it, and every end is judged by the world's book, not by the log's.
"""
