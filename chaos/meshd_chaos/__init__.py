"""The chaos harness: real daemons and real engines, broken on purpose, and every answer checked."""
