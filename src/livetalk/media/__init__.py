"""Media in and out: sound files, videos, pictures, portrait framing."""
