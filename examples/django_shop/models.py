"""The shop's own table."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """Who bought what; its money, event and job are Onefold's."""

    id = models.TextField(primary_key=True)
    buyer = models.TextField()
    cents = models.BigIntegerField()

    class Meta:
        """Named as in the other shops."""

        db_table = "shop_orders"

    def __str__(self) -> str:
        return f"{self.id} of {self.buyer}"
