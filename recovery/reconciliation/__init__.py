"""Yesterday's ledger against the gateway's report: what differs, in which saga, what to do."""
