"""What lets a run be large or fast and changes no step that it does not say it changes."""
