"""What needs several stages."""
