"""What tools/benchmark.py measures, an idea a file."""
