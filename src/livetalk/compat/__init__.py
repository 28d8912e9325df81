"""The published programs' own interfaces on top of this engine, so that code written for them runs here."""
