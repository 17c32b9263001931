"""What people start, with and without the plugin, on each line of releases."""
