"""The page that tells what was trained, how good it is, and what it looks like."""
