"""Media files: audio, video, images, and the framing of portraits."""
