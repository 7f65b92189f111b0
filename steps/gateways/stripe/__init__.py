"""Stripe as a payment gateway, over its official client (extra ``stripe``)."""
