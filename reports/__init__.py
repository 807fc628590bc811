"""Run records and asv results become a verdict, and then a page. Never imports torch."""
