"""Django's migrations of the shop's own table."""
