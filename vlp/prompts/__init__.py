"""What a model is asked: sentences and their opposites, as versioned, reviewed text.  No torch here."""
