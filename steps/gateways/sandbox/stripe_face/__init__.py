"""The sandbox gateway in Stripe's v1 wire form: the same ledger, rules and faults."""
