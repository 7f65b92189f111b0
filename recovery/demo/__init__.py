"""``amends demo``: real servers, real processes, a killed worker, and books that balance."""
