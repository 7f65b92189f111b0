"""What has happened to a saga, and what must happen next."""
