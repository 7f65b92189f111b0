"""The rate and the circuit that all workers share, and the seed's decorators for single calls."""
