"""The HTTP edge: for services that are not Python, and for gateways' webhooks. Extra `http`."""
