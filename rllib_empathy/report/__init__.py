"""Reports: one HTML page on what a few runs came to, and on who gave what to whom."""
