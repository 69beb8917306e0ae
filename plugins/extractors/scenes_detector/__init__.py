"""What an image of the data set "scenes" shows, seen by a small network that learned it from such scenes."""
