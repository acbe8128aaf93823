"""One worker for a long time, resized every second: what fails, what is delayed, and how its memory goes."""
