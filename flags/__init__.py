"""The command line: presets and dotted flags become one frozen configuration."""
