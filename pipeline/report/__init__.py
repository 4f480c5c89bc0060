"""One page to look at: frames, labels and what happened in one HTML file that opens from disk and loads nothing."""
