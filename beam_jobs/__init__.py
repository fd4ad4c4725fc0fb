"""What is computed over all users or all items."""
