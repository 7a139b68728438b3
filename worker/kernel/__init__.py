"""One file per kernel mechanism. Nothing here knows policies, limits or the protocol."""
