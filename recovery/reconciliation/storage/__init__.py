"""The comparison in SQL, and what it found, as rows."""
