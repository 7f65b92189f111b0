"""The gateways' webhooks: kept before they are acknowledged, and a reason to look afterwards."""
