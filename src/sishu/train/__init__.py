"""One trainer for every objective. It knows no task."""
