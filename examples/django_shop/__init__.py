"""A shop in Django: its ORM and Onefold in one `atomic()` block.

`ONEFOLD_URL=shop.db python -m examples.django_shop [PORT]`; the jobs are done by
`onefold worker examples.purchase:worker`.
"""
