"""The box office: a theatre sells tickets, to people in browsers and to crowds over HTTP.

Read `purchase.py` first: one transaction is what all of this is about.
"""
