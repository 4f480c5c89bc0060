"""What a person says segments are: names.json, labels with names, merged and dropped segments."""
