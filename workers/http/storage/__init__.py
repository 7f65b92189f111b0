"""The one transaction that the HTTP edge opens itself."""
