"""What users see: products built of the blocks below."""
