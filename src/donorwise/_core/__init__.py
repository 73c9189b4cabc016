"""What stands between the faces and the ground: arrays and DataFrames in, tables out; nothing here knows AnnData."""
