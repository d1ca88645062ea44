"""The crowd: thousands of buyers over HTTP, and the audit that counts what they left behind."""
