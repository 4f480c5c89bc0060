"""Where the points of a frame are in the frames around it: trackers behind one interface."""
