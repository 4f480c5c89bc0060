"""Pictures of results: overlays, sheets, slices, principal components; arrays in, arrays out."""
