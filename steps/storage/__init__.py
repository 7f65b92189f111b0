"""The shop's own tables: stock, reservations, verdicts and shipments."""
