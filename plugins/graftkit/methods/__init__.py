"""The methods, one folder each: the algorithm alone, tensors and arrays in and out."""
