"""Making and keeping what guests boot from."""
