"""What accelerator files are: records of the published ones, recognition, key repairs. No host."""
