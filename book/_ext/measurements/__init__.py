"""What the page on performance is made of: the stored measurements, tables, pictures."""
