"""What several datasets share: their sources, downloads and archives."""
