"""Thin bridges to what people already use; each is an extra."""
