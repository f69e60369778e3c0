"""What users of other servers of these models know: their flags, variables, files and programs, as our settings."""
