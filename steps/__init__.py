"""What the business does in a checkout, and how it takes it back."""
