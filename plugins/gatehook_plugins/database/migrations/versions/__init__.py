"""One revision a file, in the order of their `down_revision`. What has been released is never changed."""
