"""What somebody who knows no more than stpredict's contract adds to it."""
