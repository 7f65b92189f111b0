"""A gateway and carrier in a process of its own, with a real one's rules and scripted faults."""
