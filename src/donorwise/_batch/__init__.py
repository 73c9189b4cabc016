"""Long analyses from files to files: what the commands do, without the command line."""
