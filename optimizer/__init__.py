"""Data-aware merging: coefficients searched so that the merged model keeps every skill and every refusal."""
