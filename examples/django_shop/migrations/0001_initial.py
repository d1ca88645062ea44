"""The table of orders."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    """As `makemigrations` wrote it."""

    initial = True
    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.TextField(primary_key=True, serialize=False)),
                ("buyer", models.TextField()),
                ("cents", models.BigIntegerField()),
            ],
            options={"db_table": "shop_orders"},
        ),
    ]
