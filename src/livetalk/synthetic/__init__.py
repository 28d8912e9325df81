"""Rendered talking heads with exact ground truth: identities, speech, facial performance, rendering."""
