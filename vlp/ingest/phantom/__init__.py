"""The phantom archive: bodies, findings and reports made on demand, drawn as radiographs whose truth is known."""
