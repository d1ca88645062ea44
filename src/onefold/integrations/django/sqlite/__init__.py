"""A database backend for Django: `"ENGINE": "onefold.integrations.django.sqlite"`. See `base`."""
