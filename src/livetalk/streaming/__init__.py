"""The live path: chunk after chunk of video from a stream of audio, all state a value."""
