"""The outside parties of a checkout: who takes the money and who moves the parcel."""
