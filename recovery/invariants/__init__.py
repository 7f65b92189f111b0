"""What must be true of sagas, gateway and stock: one judge for demo, tests, chaos and bench."""
