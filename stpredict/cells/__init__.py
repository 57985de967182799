"""Recurrent units: tensors in, tensors and state out. A cell knows no time; one file a family."""
