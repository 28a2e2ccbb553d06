"""Images in files of many formats as pixels."""
