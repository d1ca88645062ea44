"""SQLAlchemy and Alembic: Alembic migrates the shop's table, `onefold migrate` ours, and neither minds the other.

`ONEFOLD_URL=shop.db python -m examples.alembic_shop` brings both up to date and sells something. By hand, from the
root of the repository: `alembic -c examples/alembic_shop/alembic.ini check`, or `revision --autogenerate -m "..."`.
"""
